"""One model on several processes: partitioned, executed stage by stage, supervised."""

from baremetal.pipeline.build import build_runners, build_stages
from baremetal.pipeline.copies import Copies, Holders, copies, holders
from baremetal.pipeline.costs import action_costs, block_costs
from baremetal.pipeline.eager_stage import EagerStage
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.exchange import Exchange, Local
from baremetal.pipeline.in_process import InProcess
from baremetal.pipeline.partition import Part, balance, partition, parts_of_stages
from baremetal.pipeline.runner import Batch, StageRunner, cut_batch
from baremetal.pipeline.stage import Stage
from baremetal.pipeline.stage_plan import CapturedStage, most_in_flight
from baremetal.pipeline.update import Update

__all__ = [
    "Batch",
    "CapturedStage",
    "Copies",
    "EagerStage",
    "Exchange",
    "Holders",
    "InProcess",
    "Local",
    "Part",
    "PipelineError",
    "Stage",
    "StageRunner",
    "Update",
    "action_costs",
    "balance",
    "block_costs",
    "build_runners",
    "build_stages",
    "copies",
    "cut_batch",
    "holders",
    "most_in_flight",
    "partition",
    "parts_of_stages",
]
