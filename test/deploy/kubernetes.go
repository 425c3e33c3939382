package deploy

import (
	"fmt"
	"path/filepath"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// rendered is what kubectl would apply, decoded.
type rendered struct {
	namespaces  []*corev1.Namespace
	configMaps  []*corev1.ConfigMap
	services    []*corev1.Service
	claims      []*corev1.PersistentVolumeClaim
	deployments []*appsv1.Deployment
	jobs        []*batchv1.Job
	budgets     []*policyv1.PodDisruptionBudget
}

// render builds a directory of deploy/k8s as `kubectl apply -k` does, and decodes each object strictly: an unknown or
// repeated field, a wrong type and a quantity that is none are errors, and so is a kind that is not expected here.
func render(dir string) (*rendered, error) {
	k := krusty.MakeKustomizer(krusty.MakeDefaultOptions())
	objects, err := k.Run(filesys.MakeFsOnDisk(), filepath.Join(root(), "deploy", "k8s", dir))
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", dir, err)
	}
	var r rendered
	for _, o := range objects.Resources() {
		text, err := o.AsYAML()
		if err != nil {
			return nil, err
		}
		if err := r.add(o.GetApiVersion()+" "+o.GetKind(), text); err != nil {
			return nil, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return &r, nil
}

func (r *rendered) add(kind string, text []byte) error {
	switch kind {
	case "v1 Namespace":
		return decode(text, &r.namespaces)
	case "v1 ConfigMap":
		return decode(text, &r.configMaps)
	case "v1 Service":
		return decode(text, &r.services)
	case "v1 PersistentVolumeClaim":
		return decode(text, &r.claims)
	case "apps/v1 Deployment":
		return decode(text, &r.deployments)
	case "batch/v1 Job":
		return decode(text, &r.jobs)
	case "policy/v1 PodDisruptionBudget":
		return decode(text, &r.budgets)
	}
	return fmt.Errorf("kind %s is not expected", kind)
}

func decode[T any](text []byte, into *[]*T) error {
	var v T
	if err := yaml.UnmarshalStrict(text, &v); err != nil {
		return err
	}
	*into = append(*into, &v)
	return nil
}
