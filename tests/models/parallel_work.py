"""Work for several processes, which import it by name."""

import torch

from kubeautoml_trainer.models import torch_loop
from kubeautoml_trainer.models.torch_augment import Augmentation
from kubeautoml_trainer.models.torch_loop import train


def train_tiny(world, device: torch.device, weight: torch.Tensor, norm: str) -> dict[str, torch.Tensor]:
    """The weights of a tiny network after a few epochs, without chance and in full precision."""
    from models.test_models_loop import QUICK, groups, make_context, make_net, make_training, make_validation

    torch_loop.autocast_type = lambda device: None
    net, context = make_net(norm=norm, dropout=0.0), make_context()
    training = make_training(context, weight, Augmentation())
    trained = train(net, groups, training, make_validation(), QUICK, context, device, world)
    return {**net.state_dict(), "value": torch.tensor(trained.value), "epoch": torch.tensor(float(trained.epoch))}
