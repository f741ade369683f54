import pytest
from scipy import stats

from gossamer.metrics.student import t_quantile


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 8, 15, 31, 100, 999])
@pytest.mark.parametrize("probability", [0.001, 0.3, 0.6, 0.9, 0.975, 0.999])
def test_equals_scipy(probability, df):
    assert t_quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), rel=1e-10)


@pytest.mark.parametrize(("probability", "df"), [(0.0, 3), (1.0, 3), (0.9, 0)])
def test_refuses_what_has_no_quantile(probability, df):
    with pytest.raises(ValueError, match="must"):
        t_quantile(probability, df)
