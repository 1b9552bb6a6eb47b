"""The methods by name; another package brings one as an entry point of the group b4m.methods."""

from ..config.training import JobConfig
from ..core.errors import UserError
from ..core.registry import Registry
from .protocol import Method

METHODS = Registry(
    "method",
    "b4m.methods",
    {
        "b4m": "b4m.methods.b4m:B4M",
        "composed": "b4m.methods.b4m:Composed",
        "content": "b4m.methods.b4m:ContentAlone",
        "style": "b4m.methods.b4m:StyleAlone",
        "joint": "b4m.methods.joint:Joint",
        "joint-then-second": "b4m.methods.joint:JointThenSecond",
        "lora": "b4m.methods.lora:Lora",
        "direct-sum": "b4m.methods.direct_sum:DirectSum",
        "ziplora": "b4m.methods.ziplora:ZipLora",
        "k-lora": "b4m.methods.k_lora:KLora",
        "b-lora": "b4m.methods.b_lora:BLoraMethod",
        "unziplora": "b4m.methods.unziplora:UnZipLora",
        "orthogonal-adaptation": "b4m.methods.orthogonal_adaptation:OrthogonalAdaptation",
        "cc+cs": "b4m.methods.cc_cs:StyleAfterContent",
        "textual-inversion": "b4m.methods.textual_inversion:TextualInversion",
        "prospect": "b4m.methods.prospect:ProspectMethod",
        "custom-diffusion": "b4m.methods.custom_diffusion:CustomDiffusion",
        "custom-diffusion-merge": "b4m.methods.custom_diffusion:CustomDiffusionMerge",
        "style-aligned": "b4m.methods.style_aligned:StyleAligned",
        "cc+es": "b4m.methods.cc_es:EditedContent",
        "words": "b4m.methods.words:Words",
    },
)


def method(name: str) -> Method:
    """Raises UserError for an unknown name."""
    return METHODS.get(name)()


def method_of(job: type[JobConfig]) -> Method:
    """The method that a training with settings of class `job` belongs to. Raises UserError."""
    for cls in METHODS:
        if job in cls.jobs:
            return cls()
    raise UserError(f"{job.__name__}: the settings of no registered method")


def job_named(method_name: str, stage: str | None) -> type[JobConfig]:
    """The settings of one job of a method: the named one, or its only one. Raises UserError.

    stage: with or without the method's name before it: lora:content is the stage lora-content.
    """
    jobs = {job.stage.removeprefix(f"{method_name}-"): job for job in METHODS.get(method_name).jobs}
    stage = stage and stage.removeprefix(f"{method_name}-")
    if stage is None and len(jobs) == 1:
        return next(iter(jobs.values()))
    if not jobs:
        raise UserError(f"method {method_name}: trains nothing")
    if stage not in jobs:
        raise UserError(
            f"method {method_name}: trains {', '.join(jobs)}; say which, as in {method_name}:{next(iter(jobs))}"
        )
    return jobs[stage]
