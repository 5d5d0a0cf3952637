"""Makes bookd/wire/ from the sources in this folder: `python protos/generate.py [FOLDER]`.

protoc names Python modules after the proto packages, which would put `bookd.orders.v1` into the package of the orders
daemon. So the generated modules are moved below `bookd.wire`, and their imports of each other with them; the names in
the protocol stay as they are. Beside the modules lies `bookd.binpb`, the descriptor set that the gateway and the MOM
read their routes and policies from. The table of who may call what in docs/security.md is made anew, too.
"""

import re
import sys
from importlib.resources import files
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from google.api import http_pb2
from grpc_tools import protoc

SOURCES = Path(__file__).parent
WIRE = SOURCES.parent / "bookd" / "wire"
OWN_IMPORT = re.compile(r"^(from|import) bookd\.", re.MULTILINE)


def include_paths(scratch: Path) -> list[str]:
    """Folders that hold protos: ours, protoc's own, and those of googleapis-common-protos.

    The last one ships google/longrunning/operations.proto under another name than the one its Python module registers;
    `scratch` gets it under the right one.
    """
    common = Path(http_pb2.__file__).parents[2]
    renamed = scratch / "google" / "longrunning" / "operations.proto"
    renamed.parent.mkdir(parents=True)
    copyfile(common / "google" / "longrunning" / "operations_proto.proto", renamed)
    return [str(SOURCES), str(scratch), str(files("grpc_tools") / "_proto"), str(common)]


def compile_protos(sources: list[str], folder: Path, includes: list[str]) -> None:
    """Run protoc over `sources`; modules, stubs and `bookd.binpb` go to `folder`."""
    arguments = [
        "protoc",
        *(f"-I{path}" for path in includes),
        f"--python_out={folder}",
        f"--pyi_out={folder}",
        f"--grpc_python_out={folder}",
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={folder}/bookd.binpb",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")


def generate(wire: Path) -> None:
    """Write the generated package to `wire`, replacing what protoc made there before."""
    sources = sorted(str(path) for path in SOURCES.glob("bookd/**/*.proto"))
    for old in [*wire.rglob("*_pb2*.py*"), *wire.rglob("*.binpb")]:
        old.unlink()
    with TemporaryDirectory() as name, TemporaryDirectory() as scratch:
        made = Path(name)
        compile_protos(sources, made, include_paths(Path(scratch)))
        wire.mkdir(parents=True, exist_ok=True)
        (made / "bookd.binpb").rename(wire / "bookd.binpb")
        for path in sorted((made / "bookd").rglob("*.py*")):
            target = wire / path.relative_to(made / "bookd")
            target.parent.mkdir(parents=True, exist_ok=True)
            text = OWN_IMPORT.sub(r"\1 bookd.wire.", path.read_text())
            if path.name.endswith("_pb2_grpc.py") and "Servicer" not in text:
                continue
            target.write_text(text)
    for folder in {wire, *(path.parent for path in wire.rglob("*_pb2.py"))}:
        for package in [folder, *folder.parents]:
            if package == wire.parent:
                break
            (package / "__init__.py").touch()


def document(path: Path) -> None:
    """Write the table of who may call what into the document."""
    from bookd.contract import access, descriptors

    contract = descriptors.load([(WIRE / "bookd.binpb").read_bytes()])
    path.write_text(access.placed(path.read_text(), access.table(contract)))


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else WIRE)
    if len(sys.argv) == 1:
        document(SOURCES.parent / "docs" / "security.md")
