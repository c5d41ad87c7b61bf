// The first request with grpc-go. Generate the stubs first:
//
//	for file in bounds common mmd; do
//	  protoc -I proto --go_out=. --go-grpc_out=. \
//	    --go_opt=module=example.com/first --go-grpc_opt=module=example.com/first \
//	    $(for name in bounds common mmd; do
//	        for plugin in go go-grpc; do
//	          echo "--${plugin}_opt=Mvfmalign/v1/$name.proto=example.com/first/pb"
//	        done
//	      done) \
//	    "vfmalign/v1/$file.proto"
//	done
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
	"google.golang.org/grpc/status"

	"example.com/first/pb"
)

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
	connection, err := grpc.NewClient(os.Getenv("VFMALIGN_MMD_ADDRESS"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(token)))
	response, err := pb.NewMmdServiceClient(connection).Compute(ctx, &pb.ComputeRequest{
		X:       toSource([][]float32{{0, 0}, {1, 0}, {0, 1}, {1, 1}}),
		Y:       toSource([][]float32{{2, 0}, {3, 0}, {2, 1}, {3, 1}}),
		Pairing: pb.Pairing_PAIRING_INDEPENDENT,
		Kernel:  &pb.Kernel{FixedSigma: 1},
		Test:    &pb.TestOptions{Permutations: 99, Seed: 1},
	})
	if err != nil {
		for _, detail := range status.Convert(err).Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok {
				log.Fatal(info.Reason, " | ", info.Metadata["subject"], " | ", info.Metadata["remedy"])
			}
		}
		log.Fatal(err)
	}
	printEstimate("MMD²", response.Layers[0].Raw.Mmd2)
	printEstimate("p", response.Layers[0].Raw.PValue)
}

// printEstimate tests presence first, because GetValue returns 0 for an absent value.
func printEstimate(name string, estimate *pb.Estimate) {
	if estimate.Value == nil {
		fmt.Println(name, "absent:", estimate.AbsentReason)
		return
	}
	fmt.Println(name, *estimate.Value)
}
