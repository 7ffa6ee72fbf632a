"""Checkpoints that the libraries themselves write, imported and loaded back into their models."""

import pytest
import torch
from torch import nn

from ckptlab.record.convert.find_checkpoints import Choice
from ckptlab.record.convert.import_checkpoints import import_checkpoints
from ckptlab.run import open_run
from tests.record.convert.test_layouts import require_exact


def small_llama(*, tied=False):
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        tokens = torch.arange(8).add(index) % 32
        return {"input_ids": tokens, "labels": tokens}


def test_transformers_trainer(tmp_path):
    from transformers import Trainer, TrainingArguments

    model = small_llama()
    states = {}

    class Keep(Trainer):
        def _save_checkpoint(self, *arguments, **options):
            found = {n: v.detach().clone() for n, v in model.state_dict().items()}
            states[self.state.global_step] = found
            super()._save_checkpoint(*arguments, **options)

    settings = TrainingArguments(
        str(tmp_path / "out"),
        max_steps=6,
        save_steps=2,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    Keep(model=model, args=settings, train_dataset=Rows()).train()
    import_checkpoints(tmp_path / "out", tmp_path / "run")
    assert list(states) == [2, 4, 6]
    require_exact(tmp_path / "run", states)
    small_llama().load_state_dict(open_run(tmp_path / "run").state_dict(6), strict=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_shards(tmp_path, dtype):
    model = small_llama().to(dtype)
    model.save_pretrained(tmp_path / "old" / "step1000", max_shard_size="4KB")
    assert len([*(tmp_path / "old" / "step1000").glob("model-*.safetensors")]) > 1
    import_checkpoints(tmp_path / "old", tmp_path / "run")
    require_exact(tmp_path / "run", {1000: model.state_dict()})


def test_accelerate(tmp_path):
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    prepared, _ = accelerator.prepare(model, torch.optim.Adam(model.parameters()))
    states = {}
    for step in (5, 10):
        with torch.no_grad():
            model[0].weight.add_(step)
        accelerator.save_state(str(tmp_path / "old" / f"step_{step}"))
        states[step] = {n: v.clone() for n, v in model.state_dict().items()}
    import_checkpoints(tmp_path / "old", tmp_path / "run")
    require_exact(tmp_path / "run", states)
    assert prepared is not None


def test_lightning(tmp_path):
    import pytorch_lightning as lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"width": 2})
            self.model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))

        def training_step(self, batch):
            return self.model(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.1)

    states = {}

    class Keep(
        lightning.pytorch.callbacks.ModelCheckpoint
        if hasattr(lightning, "pytorch")
        else lightning.callbacks.ModelCheckpoint
    ):
        def _save_checkpoint(self, trainer, path):
            super()._save_checkpoint(trainer, path)
            found = trainer.lightning_module.state_dict()
            states[trainer.global_step] = {n: v.clone() for n, v in found.items()}

    trainer = lightning.Trainer(
        max_steps=6,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Keep(tmp_path / "old", every_n_train_steps=2, save_top_k=-1, save_last=True)],
    )
    torch.manual_seed(0)
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(24, 3), batch_size=4))
    import_checkpoints(tmp_path / "old", tmp_path / "run")
    assert list(states) == [2, 4, 6]
    require_exact(tmp_path / "run", states)
    Module().load_state_dict(open_run(tmp_path / "run").state_dict(6), strict=True)


def test_peft(tmp_path):
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(small_llama(), config)
    model.save_pretrained(tmp_path / "old" / "checkpoint-3")
    import_checkpoints(tmp_path / "old", tmp_path / "run")
    require_exact(tmp_path / "run", {3: peft.get_peft_model_state_dict(model)})


def test_averaged_copies_are_named_by_their_key(tmp_path):
    model = nn.Linear(2, 2)
    content = {"model": model.state_dict(), "model_ema": nn.Linear(2, 2).state_dict()}
    (tmp_path / "old").mkdir()
    torch.save(content, tmp_path / "old" / "1.pt")
    import_checkpoints(tmp_path / "old", tmp_path / "run", choice=Choice(weights="ema"))
    require_exact(tmp_path / "run", {1: content["model_ema"]})
