import json

import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.deployment import model_card, model_card_markdown

INPUTS = np.array([[3.0, 4.0, 0.0, 0.0], [-1.0, 1.0, -1.0, 1.0]])


def test_the_card_is_a_flat_dict_of_json_strings():
    card = model_card("int8", INPUTS, {"name": "demo", "test_error": np.float32(0.5), "wave": np.arange(2)})
    assert all(isinstance(value, str) for value in card.values())
    values = {key: json.loads(value) for key, value in card.items()}
    assert values["name"] == "demo"
    assert values["number_format"] == "int8"
    assert values["test_error"] == 0.5
    assert values["wave"] == [0, 1]
    assert values["created_by"].startswith("foretrain ")


def test_the_card_states_the_range_of_values_and_of_norms():
    card = model_card("float32", INPUTS)
    assert json.loads(card["input_range"]) == [-1, 4]
    assert json.loads(card["input_norm_range"]) == [1, 2.5]  # root mean squares


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, lambda: None])
def test_what_json_cannot_hold_is_refused_by_name(value):
    with pytest.raises(ForetrainError, match="expected a value for 'odd' that JSON can hold"):
        model_card("float32", INPUTS, {"odd": value})


def test_markdown_is_the_same_from_strings_and_from_values():
    card = model_card("float32", INPUTS, {"name": "demo", "test_error": 0.00721, "seeds": 10})
    text = model_card_markdown(card)
    assert text == model_card_markdown({key: json.loads(value) for key, value in card.items()})
    assert text.startswith("# demo\n")
    assert "| Test error (mean relative L2) | 0.00721 |" in text
    assert "| Input values seen | -1 to 4 |" in text
    assert "| Seeds | 10 |" in text


def test_markdown_cells_cannot_break_the_table():
    assert "| a \\| b c |" in model_card_markdown({"replay": "a | b\nc"})
