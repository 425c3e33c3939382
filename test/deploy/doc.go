// Package deploy checks what is under deploy/ and docker-compose.yml without a container engine: the compose file with
// Compose's own parser, the manifests rendered by Kustomize's library and decoded strictly into Kubernetes' types, Pod
// Security with Kubernetes' own policies. With the build tag "servers" the images' build stages are compiled as the
// Dockerfile says, from what it copies, and every container's configuration is validated by the binary that it runs.
package deploy

import (
	"path/filepath"
	"runtime"
)

// services are all of them.
func services() []string {
	return []string{"ingest", "archiver", "rebuilder", "catchup", "usage-aggregator", "usage-history", "limiter"}
}

// root is the repository's directory.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
