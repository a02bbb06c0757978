// Command cri is a client of the Kubernetes Container Runtime Interface. It
// reads calls from standard input, JSON objects one after another,
//
//	{"method": "StopPodSandbox", "request": {"pod_sandbox_id": "…"}}
//
// makes all of them at once, and prints one line for each, in their order:
// {"response": …} or {"error": "…"}. Methods are those of RuntimeService and
// ImageService; messages are in protobuf's JSON with the names of the .proto file.
//
//	usage: cri SOCKET <CALLS
//
// It is a module of its own, since what it needs nothing else here needs.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// patience bounds each call.
const patience = 50 * time.Second

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: cri SOCKET <CALLS")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
}

type call struct {
	Method  string          `json:"method"`
	Request json.RawMessage `json:"request"`
}

type answer struct {
	Response json.RawMessage `json:"response,omitempty"`
	Error    string          `json:"error,omitempty"`
}

func run(socket string, stdin io.Reader, stdout io.Writer) error {
	calls, err := readCalls(stdin)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", socket, err)
	}
	defer func() { _ = conn.Close() }() // all answers are here by then
	services := []any{runtime.NewRuntimeServiceClient(conn), runtime.NewImageServiceClient(conn)}
	answers := make([]answer, len(calls))
	var all sync.WaitGroup
	for i, c := range calls {
		all.Go(func() { answers[i] = c.make(services) })
	}
	all.Wait()
	encoder := json.NewEncoder(stdout)
	for _, a := range answers {
		if err := encoder.Encode(a); err != nil {
			return err
		}
	}
	return nil
}

func readCalls(r io.Reader) ([]call, error) {
	var calls []call
	for decoder := json.NewDecoder(r); ; {
		var c call
		err := decoder.Decode(&c)
		if errors.Is(err, io.EOF) {
			return calls, nil
		}
		if err != nil {
			return nil, fmt.Errorf("call %d: %w", len(calls)+1, err)
		}
		calls = append(calls, c)
	}
}

func (c call) make(services []any) answer {
	response, err := c.invoke(services)
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Response: response}
}

// invoke finds the method in one of the generated clients; each has the shape
// func(context.Context, *Request, ...grpc.CallOption) (*Response, error).
func (c call) invoke(services []any) (json.RawMessage, error) {
	for _, service := range services {
		if method := reflect.ValueOf(service).MethodByName(c.Method); method.IsValid() {
			return c.invokeMethod(method)
		}
	}
	return nil, fmt.Errorf("%s: no such method", c.Method)
}

func (c call) invokeMethod(method reflect.Value) (json.RawMessage, error) {
	request, ok := reflect.New(method.Type().In(1).Elem()).Interface().(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%s: not a method of one request and one response", c.Method)
	}
	if err := c.decode(request); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	results := method.Call([]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(request)})
	if err, failed := results[1].Interface().(error); failed {
		return nil, err
	}
	response, ok := results[0].Interface().(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%s: not a method of one request and one response", c.Method)
	}
	return protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(response)
}

func (c call) decode(request proto.Message) error {
	if c.Request == nil {
		return nil
	}
	if err := protojson.Unmarshal(c.Request, request); err != nil {
		return fmt.Errorf("%s: request: %w", c.Method, err)
	}
	return nil
}
