# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Folders of models, read where the package is not installed: `python remote_code.py write FOLDER`, then `read FOLDER`. Beside
torch and transformers nothing is imported in order to read.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

INPUTS = {
    "input_ids": (torch.arange(2 * 90) % 97 + 2).view(2, 90),
    "attention_mask": torch.tensor([[1] * 90, [0] * 37 + [1] * 53]),
}
CHOICES = {name: values[:, None] for name, values in INPUTS.items()}
AUTO_CLASSES = (
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
)


@torch.no_grad()
def outputs_of(model) -> list[torch.Tensor]:
    is_choice = type(model).__name__.endswith("ForMultipleChoice")
    outputs = model.eval()(**(CHOICES if is_choice else INPUTS))
    return [value for value in outputs.to_tuple() if isinstance(value, torch.Tensor)]


def note(folder: Path, auto_class: str, model):
    """What a reader has to find in `folder`."""
    torch.save({"auto_class": auto_class, "outputs": outputs_of(model)}, folder / "expected.pt")


def write(root: Path):
    import ernie_sparse

    for auto_class in AUTO_CLASSES:
        torch.manual_seed(0)
        model_class = getattr(ernie_sparse, auto_class.replace("AutoModel", "ErnieSparse").removesuffix("Sparse"), None)
        model_class = model_class or ernie_sparse.ErnieSparseModel
        sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = ernie_sparse.ErnieSparseConfig(
            **sizes, intermediate_size=37, max_position_embeddings=128, block_size=8, num_random_blocks=1, num_labels=3
        )
        model = model_class(config)
        model.save_pretrained(root / auto_class)
        note(root / auto_class, auto_class, model)


def read(root: Path):
    """Load what stands in each folder of `root` and in what is saved of it again. Raises where anything differs."""
    sys.modules["ernie_sparse"] = None
    for noted in sorted(root.glob("*/expected.pt")):
        expected, folder = torch.load(noted), noted.parent
        for _ in range(2):
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
            assert config.model_type == "ernie_sparse", config
            auto_class = getattr(transformers, expected["auto_class"])
            model = auto_class.from_pretrained(folder, trust_remote_code=True)
            for value, reference in zip(outputs_of(model), expected["outputs"], strict=True):
                # Not to the last bit: that depends on where in memory weights come to lie.
                torch.testing.assert_close(value, reference, rtol=1e-6, atol=1e-7, msg=str(folder))
            model(**(CHOICES if "Choice" in folder.name else INPUTS), pattern=model.config.pattern)
            # The bare encoder of any head.
            transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
            files = {path.name for path in folder.glob("*.py")}
            folder = folder.with_name(folder.name + "_again")
            model.save_pretrained(folder)
            again = {path.name for path in folder.glob("*.py")}
            assert files == again and json.loads((folder / "config.json").read_text())["auto_map"] == config.auto_map
        print(transformers.__version__, noted.parent.name, "equal")


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
