"""What each job of a sweep would find out again, found out once: the server of the jobs imports this last."""

from runner.rundir import code_snapshot
from runner.tracking.environment import environment
from runner.util.git import Repositories
from runner.util.users_code import imported_files

environment({})  # 0.1 s to list the installed packages
code_snapshot.take(imported_files(), Repositories())  # 0.02 s to tell runner's and the user's modules from others
