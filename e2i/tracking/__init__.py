"""What a run logs, and where to: JSON lines in a folder, and Weights & Biases.

| module | what |
|---|---|
| config | the options |
| tracker | the interface; several trackers as one, of which none can fail a run |
| jsonl | one file a run, one JSON object a line |
| wandb_run | one W&B run; never asks, hangs or fails |
| bounded_calls | what may hang, called with limits |
| opening | from a configuration to a tracker |
| names | what the numbers are called |
| dashboard | the numbers as a W&B workspace |
"""
