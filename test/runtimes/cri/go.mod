module github.com/trestle-cni/trestle/test/runtimes/cri

go 1.25.0

require (
	google.golang.org/grpc v1.78.0
	google.golang.org/protobuf v1.36.10
	k8s.io/cri-api v0.35.0
)

require (
	golang.org/x/net v0.47.0 // indirect
	golang.org/x/sys v0.38.0 // indirect
	golang.org/x/text v0.31.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20251029180050-ab9386a59fda // indirect
)
