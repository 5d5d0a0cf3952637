"""A service that the suite never heard of, as a proto; what the gateway needs to serve it is in here and nowhere else."""

from functools import cache
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from grpc_tools import protoc

from bookd.contract.descriptors import Contract, load, shipped

KITES = """
syntax = "proto3";
package kites.v1;
import "bookd/policy/v1/policy.proto";
import "google/api/annotations.proto";
import "google/protobuf/empty.proto";

// Kites, and the wind.
service KiteService {
  rpc CreateKite(CreateKiteRequest) returns (Kite) {
    option (google.api.http) = {post: "/kites/v1/kites" body: "kite"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_USER roles: ["maker"]};
    option (bookd.policy.v1.delivery) = {deferrable: true};
    option (bookd.policy.v1.rest) = {success_status: 201};
  }
  rpc GetKite(GetKiteRequest) returns (Kite) {
    option (google.api.http) = {
      get: "/kites/v1/kites/{kite_id}"
      additional_bindings {get: "/kites/v1/{kite_id=hangars/*/kites/**}"}
    };
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
    option (bookd.policy.v1.rest) = {
      cacheable: true
      stale_after: ["kites.v1.KiteChanged"]
      stale_after_subject: "kite_id"
    };
  }
  rpc ListKites(ListKitesRequest) returns (ListKitesResponse) {
    option (google.api.http) = {get: "/kites/v1/kites"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
    option (bookd.policy.v1.rest) = {cacheable: true stale_after: ["kites.v1.KiteChanged"]};
  }
  rpc ListOwn(ListOwnRequest) returns (ListKitesResponse) {
    option (google.api.http) = {get: "/kites/v1/owners/{owner}/kites"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_USER roles: ["maker"] owner_field: "owner"};
  }
  rpc DeleteKite(GetKiteRequest) returns (google.protobuf.Empty) {
    option (google.api.http) = {delete: "/kites/v1/kites/{kite_id}"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_USER};
    option (bookd.policy.v1.rest) = {success_status: 204};
  }
  rpc TugKite(TugKiteRequest) returns (Kite) {
    option (google.api.http) = {post: "/kites/v1/kites/{kite_id}:tug" body: "*"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
  }
  rpc WatchWind(WatchWindRequest) returns (stream Gust) {
    option (google.api.http) = {get: "/kites/v1/wind"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
    option (bookd.policy.v1.rest) = {event_id_field: "note" resume_field: "after"};
  }
  rpc Mend(GetKiteRequest) returns (Kite) {
    option (google.api.http) = {post: "/kites/v1/mendings/{kite_id}" body: "*"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_INTERNAL};
  }
}
message Kite { string kite_id = 1; string colour = 2; int32 tails = 3; string etag = 4; }
message CreateKiteRequest { Kite kite = 1; }
message GetKiteRequest { string kite_id = 1; }
message ListKitesRequest { string colour = 1; int32 page_size = 2; }
message ListOwnRequest { string owner = 1; }
message KiteChanged {
  option (bookd.policy.v1.topic) = {subject_field: "kite_id"};
  string kite_id = 1;
}
message ListKitesResponse { repeated Kite kites = 1; }
message TugKiteRequest { string kite_id = 1; int32 force = 2; }
message WatchWindRequest { int32 count = 1; string after = 2; }
message Gust { int32 knots = 1; string note = 2; }
"""
SERVICE = "/kites.v1.KiteService/"

UPLOADS = """
syntax = "proto3";
package uploads.v1;
import "bookd/policy/v1/policy.proto";
import "google/api/annotations.proto";
service UploadService {
  rpc Upload(stream Part) returns (Part) {
    option (google.api.http) = {post: "/uploads/v1/parts" body: "*"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
  }
}
message Part { bytes data = 1; }
"""


def _generator() -> ModuleType:
    path = Path(__file__).parents[2] / "protos" / "generate.py"
    spec = spec_from_file_location("generate_protos", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def descriptor_set(proto: str) -> bytes:
    """What protoc makes of the source of one proto."""
    with TemporaryDirectory() as scratch, TemporaryDirectory() as folder:
        # A file that several sets hold is taken once, so each proto has a name of its own.
        source = Path(folder) / f"own_{sha256(proto.encode()).hexdigest()[:8]}.proto"
        source.write_text(proto)
        made = Path(folder) / "own.binpb"
        includes = [f"-I{path}" for path in (folder, *_generator().include_paths(Path(scratch)))]
        options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={made}"]
        status = protoc.main(["protoc", *includes, *options, str(source)])
        if status != 0:
            raise AssertionError("protoc failed")
        return made.read_bytes()


def contract(*protos: str) -> Contract:
    """The contract of the bookstore and of further protos."""
    return load([shipped(), *(descriptor_set(proto) for proto in protos)])
