"""The paper's tables agree with what they are made of."""

import pytest

from torl_jax.errors import UserError
from torl_jax.toolbench import api_bank, bamboogle, published, tables


def test_every_model_has_every_setting():
    for table in (published.BFCL, published.API_BANK, published.BAMBOOGLE):
        assert {(r.model, r.setting) for r in table} == {
            (model, setting) for model in published.SIZES for setting in published.SETTINGS
        }
        assert len(table) == 28
    assert len(published.RERUN) == 12
    assert {r.setting for r in published.RERUN} == set(published.SETTINGS) - {"SFT4k"}


def test_shares_are_of_the_items_that_there_are():
    def share(percents, n):
        # The paper cuts or rounds the second decimal.
        return any(abs(100 * k / n - percents) < 0.0101 for k in range(n + 1))

    total = sum(api_bank.SIZES.values())
    for row in published.API_BANK:
        assert share(row.figures["overall"], total), row
    # One level figure is not k / n: Llama's level 1 after SFT400+GRPO.
    odd = [
        (row.model, row.setting, level)
        for row in published.API_BANK
        for level, n in api_bank.SIZES.items()
        if not share(row.figures[level], n)
    ]
    assert odd == [("Llama-3.2-3B", "SFT400+GRPO", "level-1")]
    for row in published.BAMBOOGLE:
        assert share(row.figures["accuracy"], bamboogle.SIZE), row


def test_bfcl_overall_is_near_the_mean_of_three():
    """Not at it: what is counted as non-live takes irrelevance in too."""
    for row in published.BFCL:
        f = row.figures
        non_live = (f["non-live AST"] + f["non-live exec"]) / 2
        assert abs((non_live + f["live"] + f["multi-turn"]) / 3 - f["overall"]) < 3, row


def test_the_headline_gain_is_recomputed():
    """17 % over Raw: the mean over models and benchmarks, 17.09 points."""
    tables = (
        (published.BFCL, "overall"),
        (published.API_BANK, "overall"),
        (published.BAMBOOGLE, "accuracy"),
    )
    gains = {"Raw": [], "SFT4k": []}
    for table, column in tables:
        at = {(r.model, r.setting): r.figures[column] for r in table}
        for before, found in gains.items():
            found += [at[m, "GRPO cold"] - at[m, before] for m in published.SIZES]
    assert sum(gains["Raw"]) / 12 == pytest.approx(17.09, abs=0.005)
    assert sum(gains["SFT4k"]) / 12 == pytest.approx(14.94, abs=0.005)


@pytest.mark.parametrize(
    ("parameters", "model"),
    [
        (1_543_714_304, "Qwen2.5-1.5B"),
        (1_777_088_000, "Qwen2.5-1.5B"),
        (3_085_938_688, "Qwen2.5-3B"),
        (3_212_749_824, "Llama-3.2-3B"),
        (8_000_000_000, "Qwen2.5-7B"),
        (32_000_000_000, ""),
        (500_000, ""),
    ],
)
def test_the_nearest_model(parameters, model):
    assert published.nearest(parameters) == model


def test_bfcls_own_file_stands_beside_the_paper(tmp_path):
    head = ["Rank", "Overall Acc", "Model", *tables.BFCL_FILE.values()]
    own = ["1", "20.00%", "mine (Prompt)", "77.25%", "64.69%", "2.00%", "N/A", "12.50%"]
    path = tmp_path / "data_overall.csv"
    path.write_text(",".join(head) + "\n" + ",".join(own) + "\n")
    sheet = tables.bfcl_sheet(str(path), "mine", "Qwen2.5-1.5B")
    assert sheet.rows[0] == ("this policy", "77.25", "64.69", "2.00", "N/A", "12.50")
    cold = next(row for row in sheet.rows if row[0] == "Qwen2.5-1.5B GRPO cold")
    assert cold[1:] == ("78.0", "60.7", "2.2", "100.0", "56.4")
    with pytest.raises(UserError, match="has no row for other"):
        tables.bfcl_sheet(str(path), "other", "Qwen2.5-1.5B")
    with pytest.raises(UserError, match="cannot be read"):
        tables.bfcl_sheet(str(tmp_path / "nowhere"), "mine", "Qwen2.5-1.5B")


def test_rows_come_in_the_order_of_settings():
    own = published.of(published.RERUN, "Qwen2.5-3B")
    assert [r.setting for r in own] == [s for s in published.SETTINGS if s != "SFT4k"]
