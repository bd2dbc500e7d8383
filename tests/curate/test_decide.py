"""Which options of a rule go together."""

import pytest
from ambient.curate.decide import Rule
from ambient.schemas.errors import UserError


@pytest.mark.parametrize(
    ("rule", "idle"),
    [
        ({"sql": "2", "per": "source", "use": "hi", "share": 0.2}, "--per, --share, --use: thresholds by --rule"),
        ({"sql": "2", "epsilon": 0.1}, "--epsilon: thresholds by --rule"),
        ({"sql": "2", "epsilon": 0.05}, "--epsilon: thresholds by --rule"),
        ({"sql": "2", "quantile": "noise", "fixed": 1.0}, "--sigma-min, --quantile: thresholds by --rule"),
        ({"fixed": 1.0, "share": 0.2}, "--share: thresholds by --sigma-min"),
        ({"fixed": 1.0, "per": "quality", "by": "noise"}, "--per, --by: thresholds by --sigma-min"),
        ({"fixed": 1.0, "quantile": "noise", "use": "hi"}, "--use: thresholds by --quantile"),
        ({"share": 0.2}, "--share: thresholds from curves with --per picture"),
        ({"per": "source", "by": "noise"}, "--by: thresholds from curves with --per source"),
    ],
)
def test_what_would_change_nothing_is_refused(rule: dict, idle: str) -> None:
    with pytest.raises(UserError, match=f"^leave out {idle} do not depend on that$"):
        Rule(**rule)


@pytest.mark.parametrize(
    ("rule", "method"),
    [
        ({"epsilon": 0.1, "use": "hi"}, "classifier"),
        ({"epsilon": 0.1, "use": "hi", "per": "source"}, "source"),
        ({"epsilon": 0.1, "use": "hi", "per": "label"}, "label"),
        ({"epsilon": 0.1, "use": "hi", "per": "quality", "by": "noise"}, "quality"),
        ({"fixed": 0.0}, "fixed"),
        ({"fixed": 1.0, "quantile": "noise", "share": 0.2}, "quantile"),
        ({"sql": "2"}, "rule"),
    ],
)
def test_what_goes_together_is_taken(rule: dict, method: str) -> None:
    assert Rule(**rule, floor=0.1, cap=5.0).method == method
