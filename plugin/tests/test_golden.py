"""Golden values: written once, compared from then on, and never silently missing."""

from __future__ import annotations

import json

import pytest
from pytest_mltiers.checks.failures import CheckFailed
from pytest_mltiers.checks.golden import Golden, data_fingerprint

VALUE = {"logits": [0.25, -1.5], "label": "cat"}


@pytest.fixture
def written(tmp_path):
    Golden(tmp_path, update=True).check("answer", VALUE, key={"data": "a"})
    return tmp_path


def test_what_was_written_is_accepted(written):
    Golden(written).check("answer", {"logits": [0.25 + 1e-7, -1.5], "label": "cat"}, key={"data": "a"})


def test_a_missing_golden_fails(tmp_path):
    with pytest.raises(CheckFailed, match="--update-goldens"):
        Golden(tmp_path).check("answer", VALUE)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"logits": [0.25, -1.4], "label": "cat"}, r"logits\[1\] is -1.4, was -1.5"),
        ({"logits": [0.25], "label": "cat"}, "length 1, had 2"),
        ({"logits": [0.25, -1.5], "label": "dog"}, "'dog', was 'cat'"),
        ({"logits": [0.25, -1.5]}, "has keys"),
        ({"logits": [float("nan"), -1.5], "label": "cat"}, "'nan', was 0.25"),
    ],
)
def test_a_difference_is_named(written, value, said):
    with pytest.raises(CheckFailed, match=said) as caught:
        Golden(written).check("answer", value, key={"data": "a"})
    assert "drift" not in str(caught.value)


def test_a_golden_of_other_data_is_no_reference(written):
    with pytest.raises(CheckFailed, match=r"other circumstances: data \(\['a'\] then, \['b'\] now\)"):
        Golden(written).check("answer", VALUE, key={"data": "b"})


def test_a_difference_under_other_software_is_called_drift(written):
    path = written / "answer.json"
    golden = json.loads(path.read_text())
    golden["software"]["python"] = "3.1"
    path.write_text(json.dumps(golden))
    Golden(written).check("answer", VALUE, key={"data": "a"})
    with pytest.raises(CheckFailed, match=r"drift: python 3\.1 -> 3\."):
        Golden(written).check("answer", VALUE | {"label": "dog"}, key={"data": "a"})


@pytest.mark.parametrize("text", ["", "{}", "[1]", "<<<<<<< HEAD"])
def test_a_broken_golden_says_so(tmp_path, text):
    (tmp_path / "answer.json").write_text(text)
    with pytest.raises(CheckFailed, match="is not a golden"):
        Golden(tmp_path).check("answer", VALUE)


def test_a_name_cannot_leave_the_folder(tmp_path):
    with pytest.raises(ValueError, match="it names a file"):
        Golden(tmp_path, update=True).check("../answer", 1)


def test_metrics_are_compared_paired(tmp_path):
    old = [1] * 900 + [0] * 100
    Golden(tmp_path, update=True).check_accuracy("accuracy", old)
    assert Golden(tmp_path).check_accuracy("accuracy", old).change == 0.0
    with pytest.raises(CheckFailed, match="the new model is worse"):
        Golden(tmp_path).check_accuracy("accuracy", [0] * 60 + old[60:])
    errors = [0.1 * (i % 7 - 3) for i in range(100)]
    Golden(tmp_path, update=True).check_rmse("rmse", errors)
    with pytest.raises(CheckFailed, match="the new model is worse"):
        Golden(tmp_path).check_rmse("rmse", [e * 1.5 for e in errors])


def test_tensors_keep_their_shape(tmp_path):
    torch = pytest.importorskip("torch")
    value = torch.arange(6.0).reshape(2, 3)
    Golden(tmp_path, update=True).check("tensor", value)
    Golden(tmp_path).check("tensor", value)
    with pytest.raises(CheckFailed, match="shape"):
        Golden(tmp_path).check("tensor", value.T)
    with pytest.raises(ValueError, match="summary"):
        Golden(tmp_path, update=True).check("large", torch.zeros(30_000))


def test_the_fingerprint_changes_with_the_data():
    assert data_fingerprint([1.0, 2.0], "a") == data_fingerprint([1.0, 2.0], "a") != data_fingerprint([1.0, 2.1], "a")
