"""Figures of a cascade, and verdicts read back from a file."""

import math

import pytest

from lbp.results import ResultsError, ResultsFile
from lbp.verification import VERDICTS, ImageVerdict, count_verdicts, read_verdicts, summarize


def verdict(index, kind, by=None, **margins):
    prediction = 2 if kind == "misclassified" else 1
    return ImageVerdict(index=index, label=1, prediction=prediction, verdict=kind, by=by, margins=margins, seconds=0.5)


IMAGES = [
    verdict(0, "verified", "IBP", IBP=2.0),
    verdict(1, "verified", "CROWN", IBP=-1.0, CROWN=1.0),
    verdict(2, "open", None, IBP=-2.0, CROWN=-3.0),
    verdict(3, "falsified", "PGD margin", IBP=-7.0),
    verdict(4, "misclassified", "clean"),
]


def test_figures_count_what_every_method_met_and_decided():
    summary = summarize(IMAGES)
    assert summary["verdicts"] == {"verified": 2, "open": 1, "falsified": 1, "misclassified": 1}
    assert (summary["clean_error"], summary["attacked_error"]) == (0.2, 0.4)
    assert summarize(IMAGES, attacked=False)["attacked_error"] is None
    assert summary["verified_error"] == pytest.approx(0.6)
    assert summary["seconds_per_image"] == 0.5
    assert summary["methods"] == {
        "IBP": {"computed": 4, "verified": 1, "verified_error": 0.8, "mean_margin": -2.0},
        "CROWN": {"computed": 2, "verified": 1, "verified_error": pytest.approx(0.6), "mean_margin": -1.0},
    }


def test_a_bound_that_is_not_finite_leaves_no_mean():
    assert summarize([*IMAGES, verdict(5, "open", None, IBP=None)])["methods"]["IBP"]["mean_margin"] is None


def test_images_that_no_method_met_have_figures_too():
    summary = summarize(IMAGES[-1:])
    assert (summary["verified_error"], summary["methods"]) == (1.0, {})


def test_counts_name_every_verdict():
    assert list(count_verdicts([])) == list(VERDICTS)


def test_verdicts_come_back_from_a_file_as_they_were(tmp_path):
    third = verdict(9, "open", None, IBP=1 / 3, CROWN=-math.pi * 1e-30)
    with ResultsFile(tmp_path / "file", {"eps": 0.1}) as file:
        file.append(image.model_dump(mode="json") for image in [*IMAGES, third])
    assert read_verdicts(tmp_path / "file") == ({"eps": 0.1}, [*IMAGES, third])


def test_results_of_another_kind_are_refused(tmp_path):
    with ResultsFile(tmp_path / "file", {}) as file:
        file.append([{"index": 1, "square": 1}])
    with pytest.raises(ResultsError, match=r"line 2 is no result of this kind \(label: Field required.*square"):
        read_verdicts(tmp_path / "file")


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ('"prediction":1', '"prediction":3'),
        ('"IBP":2.0', '"IBP":-2.0'),
        ('"IBP":2.0', '"IBP":null'),
        ('"by":"IBP"', '"by":"CROWN"'),
        ('"verified"', '"misclassified"'),
    ],
)
def test_a_line_that_contradicts_itself_is_refused(tmp_path, was, now):
    with ResultsFile(tmp_path / "file", {}) as file:
        file.append([IMAGES[0].model_dump(mode="json")])
    content = (tmp_path / "file").read_text()
    assert was in content
    (tmp_path / "file").write_text(content.replace(was, now))
    with pytest.raises(ResultsError, match="line 2 is no result"):
        read_verdicts(tmp_path / "file")
