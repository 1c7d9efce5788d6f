"""What each job of a sweep would find out again, found out once: the server of the jobs imports this last."""

from torch import nn

from runner.config.compose import Composer
from runner.rundir import code_snapshot
from runner.tracking.environment import environment
from runner.util.code_state import code_state
from runner.util.git import Repositories
from runner.util.users_code import imported_files

environment({})  # 0.1 s to list the installed packages, and 4 ms to ask for versions
code_snapshot.take(imported_files(), Repositories())  # 0.02 s to tell runner's and the user's modules from others
code_state(nn.Module())  # 4 ms to look at runner's files, if they are a checkout
Composer()  # 7 ms to find Hydra's plugins and to register the schema
