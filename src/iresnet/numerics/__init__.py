"""Floor 0: callables in, tensors out. Norms, linearisations, log-determinants, fixed points and stateless noise."""
