"""What good means: one module of asset checks per asset module, same stem."""
