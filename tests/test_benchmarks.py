"""Commands that the documentation quotes are understood by their scripts, and the runner of studies runs."""

from __future__ import annotations

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest

from hf_condense.config import setting_fields
from hf_condense.evaluation.protocol import Protocol
from hf_condense.files import read_json
from hf_condense.methods import sections_of

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), ROOT / "recipes" / "README.md", *(ROOT / "benchmarks").rglob("*.md"), ROOT / "Makefile"]


def commands() -> list[str]:
    """What pages and scripts tell a person to type; `study ...` is short for the whole command."""
    text = "\n".join(page.read_text() for page in [*PAGES, *(ROOT / "benchmarks").glob("*.py")])
    found = re.findall(r"-m (benchmarks\.[^`\n]*)", text) + [
        f"benchmarks.{c}" for c in re.findall(r"`(study [^`]*)`", text)
    ]
    return sorted({c.replace("\n", " ").split(" (")[0].rstrip(".,:)") for c in found})


@pytest.mark.parametrize("command", commands())
def test_a_quoted_command_is_understood(command):
    module, *words = shlex.split(command)
    alternatives = [w.split("|") for w in words]  # `memory|time` quotes two commands
    for choice in range(max(map(len, alternatives), default=1)):
        import_module(module).parser().parse_args([w[min(choice, len(w) - 1)] for w in alternatives])


def test_there_are_commands_to_try():
    assert len(commands()) > 25


def test_links_of_the_pages_lead_somewhere():
    for page in PAGES[:-1]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_studies_name_settings_and_recipes_that_exist(monkeypatch):
    """Over all studies and images a class that the pages name."""
    from benchmarks.studies import STUDIES
    from benchmarks.study import chosen, parser

    monkeypatch.setenv("HF_CONDENSE_DATA", "data")  # studies name folders in it, and open none here
    for name in STUDIES:
        for ipc in ([], ["--ipc", "1"], ["--ipc", "50"]) if "pdd" not in name else ([],):
            study, _ = chosen(parser().parse_args([name, *ipc]))
            for row in study.rows.values():
                if row.method in ("random", "noise", "full", "class_means"):
                    continue
                settings = {**study.shared, **row.settings}
                known = setting_fields(sections_of(row.method, settings.get("base_method")))
                assert not set(settings) - set(known), f"{name}: {set(settings) - set(known)}"
                assert not {*study.recipe, *row.recipe} - set(Protocol.__dataclass_fields__)


def test_a_study_runs_and_goes_on_from_what_is_kept(tmp_path, monkeypatch, capsys):
    from benchmarks.study import main

    words = "pdd-digits-dm --sets 2 --rows random base --set iterations=2 max_per_class=12 max_test=40 chain_epochs=1"
    words += f" --recipe epochs=2 --folder {tmp_path / 'kept'} --results {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["study.py", *words.split()])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", import_module("benchmarks.study").__spec__)
    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path / "cache"))
    main()
    first = read_json(tmp_path / "study_pdd-digits-dm_ipc10.json")
    assert {row["row"] for row in first["rows"]} == {"random", "base"} and len(first["rows"][0]["top1"]) == 2
    assert first["rows"][1]["difference"]["to"] == "random" and first["command"].startswith(
        "python -m benchmarks.study"
    )
    assert first["costs"]["base"]["images"]["moved"] > 0
    main()
    assert read_json(tmp_path / "study_pdd-digits-dm_ipc10.json")["rows"] == first["rows"]
    assert "random | convnet_d1, hard" in capsys.readouterr().out


def test_the_benchmark_of_a_gpu_runs_on_a_cpu():
    from benchmarks import gpu

    options = gpu.parser().parse_args(["--quick", "--repeats", "1", "--methods", "edc", "dm", "random"])
    found = gpu.steps(options)
    assert list(found) == ["edc", "dm"] and set(found["edc"]) == {"fp32", "plain", "bf16", "without statistics"}
    assert found["dm"]["fp32"]["over_fp32"] == 1 and found["dm"]["plain"]["over_fp32"] > 0
    assert set(gpu.students(options)) == {"fp32", "bf16"}
    assert gpu.memory(options)["estimated_gb"] > 0 and gpu.estimate(options)["backward"]["estimated"] > 0


PLAIN = {
    "edc": {"iterations": 4, "shard_size": 8},
    "sre2l": {"iterations": 4, "shard_size": 8},
    "dm": {"real_batch": 4},
    "dsa": {"outer_loop": 2, "inner_loop": 1, "real_batch": 4, "iterations": 2},
    "mtt": {"experts": 1, "expert_epochs": 2, "first_epochs": 1, "span": 1, "expert_lr": 0.01, "student_steps": 3, "lr": 1.0, "gradient": "adjoint"},
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_plain_steps_move_images_as_ours_do(name):
    import torch

    from benchmarks.plain_steps import plainly
    from benchmarks.steps import MadeUpImages, step_of
    from hf_condense.methods import METHODS

    source, network = MadeUpImages(2, 8, 6), ("convnet_bn_w32" if METHODS[name].pool else "convnet_w32",)
    ours, plain = (step_of(name, source, network, torch.device("cpu"), ipc=2, **PLAIN[name]) for _ in range(2))
    plain, first = plainly(plain), ours.z.detach().clone()
    for number in range(2):
        ours.step(number)
        plain.step(number)
    moved = (ours.z - first).abs().mean()
    assert (ours.z - plain.z).abs().mean() < 0.02 * moved  # Adam's first steps blow up what is rounding noise


def test_a_step_of_edc_stays_within_its_launches():
    """500 operations for a ResNet-18, the update of the images included."""
    from benchmarks.launches import launches
    from benchmarks.steps import MadeUpImages

    seen = launches("edc", MadeUpImages(10, 32, 2), "resnet18", 2)
    assert seen.total <= 500 and not seen.waits
