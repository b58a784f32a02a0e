"""A small Transformer trained by Lightning on the source text of Python's standard library, bytes as tokens."""

import argparse
import sysconfig
from pathlib import Path

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=32)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--seed", type=int, default=0)

LENGTH = 32


class GPT(nn.Module):
    """A decoder-only Transformer over 256 bytes."""

    def __init__(self, width=32, layers=2, **others):
        super().__init__()
        self.embedding, self.position = nn.Embedding(256, width), nn.Embedding(LENGTH, width)
        block = nn.TransformerEncoderLayer(width, 2, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, tokens_BT):
        """Mean loss of the next byte, nats."""
        inputs_BT, length = tokens_BT[:, :-1], tokens_BT.shape[1] - 1
        mask_TT = nn.Transformer.generate_square_subsequent_mask(length, device=tokens_BT.device)
        x_BTD = self.embedding(inputs_BT) + self.position.weight[:length]
        logits_BTV = self.head(self.blocks(x_BTD, mask=mask_TT, is_causal=True))
        return nn.functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())


class Module(lightning.LightningModule):
    """The model, its loss and its optimizer."""

    def __init__(self, args):
        super().__init__()
        self.model, self.args = GPT(args.width, args.layers), args

    def training_step(self, tokens_BT):
        """Mean loss of a batch."""
        return self.model(tokens_BT)

    def validation_step(self, tokens_BT):
        """Mean loss of a batch."""
        self.log("valid_loss", self.model(tokens_BT))

    def configure_optimizers(self):
        """AdamW, and a cosine per step."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.args.lr, betas=(0.9, 0.95), weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.args.steps, self.args.lr / 10)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def rows(*modules):
    """Sequences of the source of some modules."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = b"".join((folder / f"{name}.py").read_bytes() for name in modules)
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    return tokens[: len(tokens) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)


def main(arguments=None):
    """Train."""
    args = parser.parse_args(arguments)
    lightning.seed_everything(args.seed)
    trainer = lightning.Trainer(
        max_steps=args.steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    module = Module(args)
    train = rows("argparse", "ast", "datetime", "decimal", "doctest", "inspect")
    trainer.fit(module, DataLoader(train, args.batch_size, shuffle=True))
    trainer.limit_val_batches = 1.0
    print(trainer.validate(module, DataLoader(rows("typing")[:64], 64), verbose=False)[0]["valid_loss"])


if __name__ == "__main__":
    main()
