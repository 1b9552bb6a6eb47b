"""Sums of predictions: their terms, and samples of equal strengths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b4m.maths.composing import BASE, COMPOSING, composed_predictions, composed_weights, runs

DIAL = st.floats(-2, 2)


@given(content=DIAL, style=DIAL, way=st.sampled_from(list(COMPOSING)))
def test_weights_add_up_to_one_so_that_what_all_predict_is_the_answer(content, style, way):
    terms = COMPOSING[way](content, style)
    assert sum(weight for weight, *_ in terms) == pytest.approx(1) and 1 <= len(terms) <= 3


@given(content=DIAL, style=DIAL)
def test_a_sum_of_predictions_is_linear_in_both_dials(content, style):
    """On an arithmetic in which v(c, s) = 1 + 10 c + 100 s + 1000 c s: no interaction is left."""
    answer = sum(
        w * (1 + 10 * c + 100 * s + 1000 * c * s) for w, c, s in composed_predictions(content, style)
    )
    assert answer == pytest.approx(1 + 10 * content + 100 * style, abs=1e-9)


def test_a_prediction_of_weight_zero_is_not_made():
    assert composed_predictions(1, 0) == ((1, 1, 0),) and composed_predictions(0, 1) == ((1, 0, 1),)
    assert composed_predictions(0, 0) == BASE == composed_weights(0, 0)
    assert len(composed_predictions(0.5, 0.5)) == 2 and len(composed_predictions(1, 1)) == 3
    assert composed_predictions(1, 0, 2) == ((-2, 0, 0, 0), (1, 1, 0, 0), (2, 0, 0, 1))  # a file more


def test_runs_are_neighbours_of_equal_strengths():
    found = list(runs((0, 0, 1, 0), (0, 0, 1, 1), 4))
    assert found == [(slice(0, 2), 0, 0), (slice(2, 3), 1, 1), (slice(3, 4), 0, 1)]
    assert list(runs(0.5, 1.0, 3)) == [(slice(0, 3), 0.5, 1.0)]
    with pytest.raises(ValueError, match="2 strengths for a batch of 3"):
        list(runs((1, 1), 1.0, 3))
