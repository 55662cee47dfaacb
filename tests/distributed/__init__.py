"""How a model is divided, without starting any machine."""
