"""Training: reading images, fitting the models of the zoo, checkpoints and export."""
