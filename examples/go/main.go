// The first request with grpc-go. In a module of this name, generate the stubs of the protos first:
//
//	go mod init example.com/vfmalign
//	protoc -I proto --go_out=. --go_opt=module=example.com/vfmalign \
//	  --go-grpc_out=. --go-grpc_opt=module=example.com/vfmalign \
//	  proto/vfmalign/v1/bounds.proto proto/vfmalign/v1/common.proto proto/vfmalign/v1/mmd.proto
//	go mod tidy && go run .
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver/dns"
	"google.golang.org/grpc/status"

	pb "example.com/vfmalign/v1"
)

// maxMessage is the limit of the services; grpc-go's own limit for responses is 4 MiB.
const maxMessage = 16 << 20

// serviceConfig sends calls to all replicas, and repeats those that end in UNAVAILABLE.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{"name": [{}], "retryPolicy": {
    "maxAttempts": 4, "initialBackoff": "0.2s", "maxBackoff": "2s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"]
  }}]
}`

// toSource packs rows × channels as little-endian float32.
func toSource(rows [][]float32) *pb.FeatureSource {
	var data bytes.Buffer
	for _, row := range rows {
		binary.Write(&data, binary.LittleEndian, row)
	}
	features := &pb.Tensor{
		DataType: pb.DataType_DATA_TYPE_FLOAT32,
		Shape:    []int64{int64(len(rows)), int64(len(rows[0]))},
		Data:     data.Bytes(),
	}
	inline := &pb.InlineFeatures{Layers: []*pb.InlineLayer{{Features: features}}}
	return &pb.FeatureSource{Source: &pb.FeatureSource_Inline{Inline: inline}}
}

func main() {
	token, err := os.ReadFile(os.Getenv("VFMALIGN_TOKEN_FILE"))
	if err != nil {
		log.Fatal(err)
	}
	dns.SetMinResolutionInterval(time.Second) // finds the pods of a new version in time; 30 s by default
	connection, err := grpc.NewClient(os.Getenv("VFMALIGN_MMD_ADDRESS"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(token)))
	client := pb.NewMmdServiceClient(connection)
	request := &pb.ComputeRequest{
		X:       toSource([][]float32{{0, 0}, {1, 0}, {0, 1}, {1, 1}}),
		Y:       toSource([][]float32{{2, 0}, {3, 0}, {2, 1}, {3, 1}}),
		Pairing: pb.Pairing_PAIRING_INDEPENDENT,
		Kernel:  &pb.Kernel{FixedSigma: 1},
		Test:    &pb.TestOptions{Permutations: 99, Seed: 1},
	}
	response, err := client.Compute(ctx, request)
	if err != nil {
		log.Fatal(err)
	}
	printEstimate("MMD²", response.Layers[0].Raw.Mmd2)
	printEstimate("p", response.Layers[0].Raw.PValue)

	request.X.Source = &pb.FeatureSource_FeatureSetId{FeatureSetId: "some-feature-set"}
	if _, err := client.Compute(ctx, request); err != nil {
		printError(err)
	}
}

// printError prints what a program branches on (reason) and what a person reads (subject, remedy).
func printError(err error) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			fmt.Println(status.Code(err), info.Reason, "|", info.Metadata["subject"], "|", info.Metadata["remedy"])
		}
	}
}

// printEstimate tests presence first, because GetValue returns 0 for an absent value.
func printEstimate(name string, estimate *pb.Estimate) {
	if estimate.Value == nil {
		fmt.Println(name, "absent:", estimate.AbsentReason)
		return
	}
	fmt.Println(name, *estimate.Value)
}
