"""`medseg model verify | export | import`: models that can be trusted, and carried to and from other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
FOLDER = click.argument("folder", type=click.Path(path_type=Path), metavar="MODEL_FOLDER")


@click.group()
def model() -> None:
    """Check a model folder, export it, or import weights of another program. Nothing is downloaded."""


@model.command()
@FOLDER
@AS_JSON
def verify(folder: Path, as_json: bool) -> None:
    """Check hashes, files and the catalog; nothing of the model is run."""
    from medseg.model.folder import verify_model
    from medseg.zoo.build import find

    facts = verify_model(_inside(folder))
    card = find(str(facts["system"]["name"]).split(" + ")[0])
    weights = facts["weights"] or {}
    said: dict[str, Any] = {
        "model": facts["hash"],
        "kind": facts["kind"],
        "system": facts["system"]["name"],
        "in_catalog": card.name,
        "classes": [info["name"] for info in facts["classes"]],
        "weights_sha256": weights.get("sha256"),
        "parameters": weights.get("parameters"),
        "licence": facts.get("licence", ""),
        "intended_use": facts.get("intended_use", ""),
        "versions": facts.get("versions", {}),
    }
    if as_json:
        click.echo(json.dumps(said, allow_nan=False))
        return
    click.echo(f"{folder}: whole and unchanged")
    for key, value in said.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"  {key.replace('_', ' '):<15} {text}")


@model.command()
@FOLDER
@click.option(
    "--to",
    "form",
    required=True,
    type=click.Choice(["onnx", "openvino", "torchscript", "monai-bundle"]),
    help="Which form.",
)
@click.option("--out", type=click.Path(path_type=Path), help="New folder. Default: MODEL_FOLDER-FORM.")
@AS_JSON
def export(folder: Path, form: str, out: Path | None, as_json: bool) -> None:
    """Write the model in another form, and compare its labels with this one's."""
    from medseg.model.export import export_model

    inside = _inside(folder)
    target = out or Path(f"{folder.resolve()}-{form}")
    facts = export_model(inside, form, target)
    if as_json:
        click.echo(json.dumps({"out": str(target), **facts}, allow_nan=False))
        return
    click.echo(
        f"wrote {target}: Dice {facts['dice']:.5f} against this model, {100 * facts['voxels_equal']:.3f} % of voxels "
        f"equal, logits within {facts['largest_difference']:.2g}"
    )


@model.command("import")
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--from", "program", required=True, type=click.Choice(["nnunet", "monai"]), help="Who wrote it."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New model folder.")
@click.option(
    "--orientation",
    default="",
    metavar="CODES",
    help="Axis codes of its training images, e.g. LPS (nnU-Net).",
)
@click.option("--configuration", default="", help="Of several: 3d_fullres, 3d_lowres (nnU-Net).")
@click.option("--fold", default="", help="Of several: 0, 1 ... all (nnU-Net).")
@click.option("--trust", is_flag=True, help="You know who made the file; needed with PyTorch below 2.10.")
@AS_JSON
def import_(source: Path, program: str, out: Path, orientation: str, configuration: str, fold: str, trust: bool,
            as_json: bool) -> None:  # fmt: skip
    """Make a model folder from a checkpoint or bundle; its weights are read in a process that may do nothing else."""
    from medseg.core.errors import UserError

    if out.exists():
        raise UserError("exists already", str(out), "choose another name with --out")
    if program == "nnunet":
        from medseg.model.import_nnunet import import_nnunet

        facts = import_nnunet(source, out, orientation=orientation, configuration=configuration, fold=fold, trust=trust)  # fmt: skip
    else:
        from medseg.model.import_monai import import_monai

        facts = import_monai(source, out, trust=trust)
    if as_json:
        click.echo(json.dumps({"out": str(out), "model": facts["hash"], "system": facts["system"],
                               "classes": facts["classes"]}, allow_nan=False))  # fmt: skip
        return
    names = ", ".join(info["name"] for info in facts["classes"])
    click.echo(f"wrote {out}: {facts['system']['name']}, model {facts['hash'][:12]}, classes {names}")
    click.echo(
        "  score it on cases of your own before you use it: `medseg run PIPELINE --model " + str(out) + "`"
    )


def _inside(folder: Path) -> Path:
    """The model folder itself, or that of a run."""
    return (
        folder if (folder / "model.json").is_file() or not (folder / "model").is_dir() else folder / "model"
    )
