"""What is learnt: model, loss, examples, optimizer, and what counts as accuracy."""
