"""Fine-tuning of the encoders: audio, text and heads trained end to end."""
