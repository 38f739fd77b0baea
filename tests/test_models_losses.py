"""How far answers are from their targets."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: install salience[train]")

from models.losses import Losses, disagreement, label_weights, tag_loss  # noqa: E402 (needs torch)
from models.recipe import DataRecipe, HeadRecipe, Recipe, Training  # noqa: E402
from models.targets import IGNORED, Target  # noqa: E402

pytestmark = pytest.mark.train
CPU = torch.device("cpu")


def recipe(*heads: HeadRecipe, **training: Any) -> Recipe:
    return Recipe(
        name="r", heads=heads, data=(DataRecipe(path="a", heads=("mood",)),), training=Training(**training)
    )


MOOD = HeadRecipe(name="mood", kind="label", labels=("bad", "good"))
SURE = 30.0


def sure_of(tags: list[list[int]]) -> torch.Tensor:
    """Logits [N, T, 5] that are all but certain of these tags."""
    return torch.nn.functional.one_hot(torch.tensor(tags), 5).float() * SURE


def test_a_type_that_nobody_marked_is_not_punished_where_the_text_says_o() -> None:
    said, true = sure_of([[3, 4, 1]]), torch.tensor([[0, 0, 1]])
    marked, unmarked = torch.tensor([[1.0, 0, 0, 0, 0]]), torch.tensor([[1.0, 0, 0, 1, 1]])

    assert float(tag_loss(said, true, unmarked)) == pytest.approx(0.0, abs=1e-4)
    assert float(tag_loss(said, true, marked)) > 5


def test_a_marked_type_is_wanted_also_where_others_are_open() -> None:
    assert float(tag_loss(sure_of([[3]]), torch.tensor([[1]]), torch.tensor([[1.0, 0, 0, 1, 1]]))) > 5


def test_tokens_that_begin_no_word_count_for_nothing() -> None:
    open_tags = torch.tensor([[1.0, 0, 0, 0, 0]])
    short = tag_loss(sure_of([[2, 0]]), torch.tensor([[0, 0]]), open_tags)
    padded = tag_loss(sure_of([[2, 4, 0, 3]]), torch.tensor([[0, IGNORED, 0, IGNORED]]), open_tags)

    assert float(padded) == pytest.approx(float(short))


def test_a_text_weighs_the_same_whatever_its_length() -> None:
    open_tags = torch.tensor([[1.0, 0, 0, 0, 0]])
    one = tag_loss(sure_of([[1]]), torch.tensor([[0]]), open_tags)
    many = tag_loss(sure_of([[1] * 7]), torch.tensor([[0] * 7]), open_tags)

    assert float(one) == pytest.approx(float(many))


def test_rare_labels_weigh_more_by_the_power_asked_for_and_1_on_average() -> None:
    assert label_weights([3, 1], 0.0).tolist() == [1.0, 1.0]
    assert label_weights([3, 1], 1.0).tolist() == pytest.approx([2 / 3, 2.0])
    assert float((label_weights([8, 1, 1], 0.5) * torch.tensor([8, 1, 1])).sum()) == pytest.approx(10.0)


def test_a_head_without_a_row_in_the_batch_has_no_loss_and_others_are_over_all_texts() -> None:
    asked = recipe(MOOD, HeadRecipe(name="other", kind="label", labels=("x", "y")))
    losses = Losses(asked, {"mood": [1, 1], "other": [1, 1]}, CPU)
    outputs = {name: torch.zeros(2, 2) for name in ("mood.logits", "other.logits")}

    found = losses(None, outputs, None, [Target({"mood": 0}), Target()], None)

    assert set(found) == {"mood"}
    assert float(found["mood"]) == pytest.approx(torch.log(torch.tensor(2.0)).item() / 2)


def test_the_weight_of_a_head_multiplies_its_loss() -> None:
    heavy = HeadRecipe(name="mood", kind="label", labels=("bad", "good"), weight=3.0)
    outputs = {"mood.logits": torch.zeros(1, 2)}

    one, three = (
        Losses(recipe(head), {"mood": [1, 1]}, CPU)(None, outputs, None, [Target({"mood": 0})], None)
        for head in (MOOD, heavy)
    )

    assert float(three["mood"]) == pytest.approx(3 * float(one["mood"]))


def test_label_smoothing_keeps_a_sure_answer_from_costing_nothing() -> None:
    outputs = {"mood.logits": torch.tensor([[SURE, 0.0]])}

    plain, smooth = (
        Losses(recipe(MOOD, label_smoothing=each), {"mood": [1, 1]}, CPU)(
            None, outputs, None, [Target({"mood": 0})], None
        )
        for each in (0.0, 0.1)
    )

    assert float(plain["mood"]) == pytest.approx(0.0, abs=1e-6)
    assert float(smooth["mood"]) > 1


def test_an_embedding_is_held_to_the_vectors_of_the_base() -> None:
    asked = recipe(MOOD, HeadRecipe(name="embedding", kind="embedding"))
    losses = Losses(asked, {"mood": [1, 1]}, CPU)
    vectors = torch.nn.functional.normalize(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    outputs = {"mood.logits": torch.zeros(2, 2), "embedding": vectors}

    same = losses(None, outputs, None, [Target(), Target()], vectors)["embedding"]
    opposite = losses(None, outputs, None, [Target(), Target()], -vectors)["embedding"]

    assert float(same) == pytest.approx(0.0, abs=1e-6)
    assert float(opposite) == pytest.approx(2.0)


def test_two_readings_differ_by_the_mean_of_both_divergences() -> None:
    one = torch.tensor([[2.0, 0.0, -1.0], [0.3, 0.1, 0.0]])
    other = torch.tensor([[0.0, 1.0, 0.5], [0.3, 0.1, 0.0]])
    first, second = torch.softmax(one, 1), torch.softmax(other, 1)
    there, back = (first * (first / second).log()).sum(), (second * (second / first).log()).sum()

    assert float(disagreement(one, other)) == pytest.approx(float(there + back) / 2)
    assert float(disagreement(one, one)) == 0.0


def test_two_readings_need_to_agree_where_a_head_has_a_label_only() -> None:
    losses = Losses(recipe(MOOD), {"mood": [1, 1]}, CPU)
    calm, other = torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [3.0, -3.0]])
    labelled = Target(labels={"mood": 0})

    def apart(*targets: Target) -> dict[str, torch.Tensor]:
        return losses.apart({"mood.logits": calm}, {"mood.logits": other}, targets)

    assert float(apart(labelled, Target())["mood"]) == 0.0
    assert float(apart(labelled, labelled)["mood"]) == pytest.approx(float(disagreement(calm, other)) / 2)
    assert apart(Target(), Target()) == {}
