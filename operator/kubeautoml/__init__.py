"""KubeAutoML: the operator, the contract and the command. See README.md for the map of the house."""

__version__ = "0.1.0"
