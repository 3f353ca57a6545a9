"""One model on several processes: partitioned, executed stage by stage, supervised."""
