"""What `tether calibrate` finds: a trained model turned up and down, and the strength that follows."""

from tether.records.findings import Answer, Estimate, RuleFinding
from tether.records.results import SCHEMA, Record

CALIBRATION = "calibration.json"


class DialPoint(Record):
    """The trained model at one dial value d: policy^d * start^(1 - d), token by token. Of two: their mean."""

    dial: float
    beta: float
    """The beta whose training this dial stands for: the trained beta / d."""
    kl: Estimate
    """KL(dialled || start), nats per answer."""
    gain: Estimate | None
    """Judge's score less the start model's, on the same prompts; None without a judge. All intervals hold
    together."""
    cross_fitted: Estimate | None = None
    """Implicit reward by the other half's model, beta (log scorer - log start) in nats, less the start
    model's; None where one model was trained on all pairs. These intervals hold together too."""
    tokens: float
    """Mean answer length, end token included."""
    end_rate: float


class Calibration(Record):
    """`calibration.json`."""

    schema_version: int = SCHEMA
    model: str
    data: tuple[str, ...]
    trained: tuple[str, ...]
    """Folders of the trained models: one, or one of each half of the pairs."""
    trained_beta: float
    judge: str | None
    answer: Answer
    recommended_dial: float | None
    """Ship the trained model as it is with `tether generate --dial`; None where nothing is recommended."""
    recommended_beta: float | None
    """Or train again with this beta; an extrapolation from the dial, best near 1."""
    points: tuple[DialPoint, ...]
    cross_fitted: RuleFinding | None = None
    """What cross-fitting would choose; not proven, so never the recommendation."""
    prompts: int
    seconds: dict[str, float]
    """train (reference scoring included), sample and score."""
    cost: float
    """All of it in training runs on all pairs."""
    notes: tuple[str, ...] = ()
