"""The one-pass engine: chunks of weights in, sums over weights out."""
