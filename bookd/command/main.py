"""The command `bookd`: everything that a person at a terminal needs."""

from pathlib import Path
from typing import ClassVar

import click

from bookd.command.home import Home


class Lazily(click.Group):
    """Imports a subcommand when it is asked for, so that none pays for what only another needs."""

    # Where each subcommand is defined: module and name.
    places: ClassVar = {
        "init": ("bookd.command.init", "init"),
        "up": ("bookd.command.up", "up"),
        "ctl": ("bookd.command.supervise", "ctl"),
        "status": ("bookd.command.supervise", "status"),
        "keys": ("bookd.command.keys", "keys"),
        "certs": ("bookd.command.certs", "certs"),
        "import": ("bookd.command.loading", "import_file"),
        "client": ("bookd.command.client", "client"),
        "mom": ("bookd.command.mom", "mom"),
        "audit": ("bookd.command.audit", "audit"),
        "backup": ("bookd.command.backup", "backup"),
        "restore": ("bookd.command.backup", "restore"),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands, in the order in which a newcomer meets them."""
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand of that name, if there is one."""
        if cmd_name not in self.places:
            return None
        module, name = self.places[cmd_name]
        found: click.Command = getattr(__import__(module, fromlist=[name]), name)
        return found


@click.group(cls=Lazily)
@click.option(
    "--home",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("var"),
    envvar="BOOKD_HOME",
    show_default=True,
    show_envvar=True,
    help="The folder that holds all state of a suite.",
)
@click.version_option(package_name="bookd")
@click.pass_context
def main(context: click.Context, folder: Path) -> None:
    """Make, run and use a bookd suite."""
    context.obj = Home(folder.absolute())


if __name__ == "__main__":
    main()
