"""`baremetal model`: full-size models by their sizes; the work is done in `cluster/models/`."""

from baremetal.bench.verbs import Benchmark
from baremetal.cluster.models.verbs import ListOptions, ShowOptions, run_list, run_show

MODEL_VERBS: dict[str, Benchmark] = {
    "list": Benchmark("what is described", "baremetal model list", ListOptions, run_list),
    "show": Benchmark(
        "one in full, with sources", "baremetal model show deepseek-v3", ShowOptions, run_show
    ),
}
