"""What is made and what good means: asset definitions, checks and the science they are made of."""
