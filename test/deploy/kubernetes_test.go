package deploy

import (
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

func example(t *testing.T) *rendered {
	t.Helper()
	r, err := render("example")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const (
	nameLabel      = "app.kubernetes.io/name"
	componentLabel = "app.kubernetes.io/component"
	instanceLabel  = "app.kubernetes.io/instance"
)

// stateful services keep state on a volume of their own: see the design's rule on instances.
func stateful(d *appsv1.Deployment) bool {
	switch d.Labels[nameLabel] {
	case "archiver", "usage-aggregator", "limiter":
		return true
	case "ingest":
		return d.Labels[componentLabel] == "worker"
	}
	return false
}

func TestEveryServiceIsDeployed(t *testing.T) {
	r := example(t)
	instances := map[string]int{}
	for _, d := range r.deployments {
		if want := "databus/" + d.Labels[nameLabel] + ":dev"; d.Spec.Template.Spec.Containers[0].Image != want {
			t.Errorf("%s runs %s, want %s", d.Name, d.Spec.Template.Spec.Containers[0].Image, want)
		}
		if d.Namespace != "databus" {
			t.Errorf("%s is in namespace %q", d.Name, d.Namespace)
		}
		instances[d.Labels[nameLabel]]++
	}
	for _, s := range services() {
		if instances[s] == 0 {
			t.Errorf("no Deployment of %s", s)
		}
	}
	for _, s := range []string{"archiver", "usage-aggregator", "limiter"} {
		if instances[s] != 2 {
			t.Errorf("%d instances of %s in the example, want 2", instances[s], s)
		}
	}
}

// TestInstances checks the rule for stateful services, and that two versions at once never share a consumer group.
func TestInstances(t *testing.T) {
	r := example(t)
	claimed := map[string]string{}
	for _, d := range r.deployments {
		spec := d.Spec.Template.Spec
		rolls := d.Labels[nameLabel] == "ingest" && d.Labels[componentLabel] == "api"
		if rolls == (d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType) {
			t.Errorf("%s: strategy %s", d.Name, d.Spec.Strategy.Type)
		}
		if rolls {
			for _, loop := range []string{"APPLIER", "REQUESTS", "EVIDENCE"} {
				if v := variable(spec.Containers[0], "DATABUS_INGEST_"+loop+"__ENABLED"); v == nil || v.Value != "false" {
					t.Errorf("%s rolls, and runs %s", d.Name, loop)
				}
			}
		}
		id := variable(spec.Containers[0], "DATABUS_INSTANCE__ID")
		if id == nil || id.ValueFrom == nil || id.ValueFrom.FieldRef == nil {
			t.Errorf("%s: the instance has no id", d.Name)
			continue
		}
		if !stateful(d) {
			continue
		}
		if *d.Spec.Replicas != 1 {
			t.Errorf("%s: %d replicas of one instance", d.Name, *d.Spec.Replicas)
		}
		if id.ValueFrom.FieldRef.FieldPath != "metadata.labels['"+instanceLabel+"']" || d.Spec.Template.Labels[instanceLabel] != d.Name {
			t.Errorf("%s: its id is %s = %q, not its name", d.Name, id.ValueFrom.FieldRef.FieldPath, d.Spec.Template.Labels[instanceLabel])
		}
		i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == "state" })
		if i < 0 || spec.Volumes[i].PersistentVolumeClaim == nil {
			t.Errorf("%s: its state is on no claimed volume", d.Name)
			continue
		}
		claim := spec.Volumes[i].PersistentVolumeClaim.ClaimName
		if other := claimed[claim]; other != "" {
			t.Errorf("%s and %s share the volume %s", d.Name, other, claim)
		}
		claimed[claim] = d.Name
		j := slices.IndexFunc(r.claims, func(c *corev1.PersistentVolumeClaim) bool { return c.Name == claim && c.Namespace == d.Namespace })
		if j < 0 {
			t.Errorf("%s: claim %s does not exist", d.Name, claim)
			continue
		}
		c := r.claims[j]
		if !slices.Equal(c.Spec.AccessModes, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}) || c.Spec.Resources.Requests.Storage().IsZero() {
			t.Errorf("%s: access modes %v, storage %s", claim, c.Spec.AccessModes, c.Spec.Resources.Requests.Storage())
		}
	}
	if len(claimed) != len(r.claims) {
		t.Errorf("%d claims, %d of them used", len(r.claims), len(claimed))
	}
}

func TestPods(t *testing.T) {
	r := example(t)
	var config struct {
		DrainTimeout metav1.Duration `json:"drain_timeout"`
	}
	for _, m := range r.configMaps {
		if err := yaml.Unmarshal([]byte(m.Data["databus.yaml"]), &config); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range r.deployments {
		spec := d.Spec.Template.Spec
		if len(spec.Containers) != 1 || spec.Containers[0].Name != "service" {
			t.Errorf("%s: its container is not called service, so the frame has added one", d.Name)
			continue
		}
		c := spec.Containers[0]
		for name, probe := range map[string]*corev1.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
			if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != name || port(c, probe.HTTPGet.Port.StrVal) != 9464 {
				t.Errorf("%s: probe of %s: %+v", d.Name, name, probe)
			}
		}
		if c.StartupProbe == nil {
			t.Errorf("%s: no startup probe", d.Name)
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s: resources %+v", d.Name, c.Resources)
		}
		if *spec.EnableServiceLinks || *spec.AutomountServiceAccountToken {
			t.Errorf("%s: service links or a token that it does not need", d.Name)
		}
		if !*c.SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("%s may write its image", d.Name)
		}
		if grace := time.Duration(*spec.TerminationGracePeriodSeconds) * time.Second; config.DrainTimeout.Duration == 0 || grace <= config.DrainTimeout.Duration {
			t.Errorf("%s is killed after %v, but may drain for %v", d.Name, grace, config.DrainTimeout.Duration)
		}
		for _, m := range c.VolumeMounts {
			if !slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
				t.Errorf("%s: volume %s does not exist", d.Name, m.Name)
			}
		}
		for _, v := range spec.Volumes {
			if v.ConfigMap != nil && !slices.ContainsFunc(r.configMaps, func(m *corev1.ConfigMap) bool { return m.Name == v.ConfigMap.Name && m.Namespace == d.Namespace }) {
				t.Errorf("%s: config map %s does not exist", d.Name, v.ConfigMap.Name)
			}
			// Kubernetes makes a secret's file readable for the pod's group; the key file is refused with any other mode.
			if v.Secret != nil && *v.Secret.DefaultMode != 0o440 {
				t.Errorf("%s: secret %s is mounted with mode %o", d.Name, v.Secret.SecretName, *v.Secret.DefaultMode)
			}
		}
		for _, e := range c.Env {
			if e.Value != "" && strings.Contains(strings.ToLower(e.Name), "password") {
				t.Errorf("%s: %s is written into a manifest", d.Name, e.Name)
			}
		}
		if !slices.ContainsFunc(c.EnvFrom, func(f corev1.EnvFromSource) bool { return f.SecretRef != nil && f.SecretRef.Name == "databus-kafka" }) {
			t.Errorf("%s cannot be given credentials for the brokers", d.Name)
		}
	}
}

// TestSelectors: each Deployment selects its own pods and nobody else's, each Service and budget selects some.
func TestSelectors(t *testing.T) {
	r := example(t)
	selectsOf := func(s *metav1.LabelSelector) (names []string) {
		selector, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range r.deployments {
			if selector.Matches(labels.Set(d.Spec.Template.Labels)) {
				names = append(names, d.Name)
			}
		}
		return names
	}
	budgeted := map[string]int{}
	for _, d := range r.deployments {
		if names := selectsOf(d.Spec.Selector); !slices.Equal(names, []string{d.Name}) {
			t.Errorf("%s selects the pods of %v", d.Name, names)
		}
	}
	for _, s := range r.services {
		names := selectsOf(&metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		if len(names) != 1 {
			t.Errorf("service %s leads to %v", s.Name, names)
			continue
		}
		i := slices.IndexFunc(r.deployments, func(d *appsv1.Deployment) bool { return d.Name == names[0] })
		for _, p := range s.Spec.Ports {
			if port(r.deployments[i].Spec.Template.Spec.Containers[0], p.TargetPort.StrVal) == 0 {
				t.Errorf("service %s leads to the port %s, which %s does not have", s.Name, p.TargetPort.StrVal, names[0])
			}
		}
	}
	for _, b := range r.budgets {
		names := selectsOf(b.Spec.Selector)
		if len(names) == 0 {
			t.Errorf("budget %s protects nothing", b.Name)
		}
		for _, n := range names {
			budgeted[n]++
		}
		if b.Spec.MaxUnavailable == nil || b.Spec.MaxUnavailable.IntValue() != 1 {
			t.Errorf("budget %s would keep a node with a single instance from being drained", b.Name)
		}
	}
	for _, d := range r.deployments {
		if budgeted[d.Name] != 1 {
			t.Errorf("%s has %d budgets", d.Name, budgeted[d.Name])
		}
	}
}

// TestPodSecurity asks Kubernetes' own policies.
func TestPodSecurity(t *testing.T) {
	r := example(t)
	prepare, err := render("init")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.namespaces) != 1 || r.namespaces[0].Labels[api.EnforceLevelLabel] != string(api.LevelRestricted) {
		t.Error("the namespace does not enforce restricted")
	}
	latest := api.LatestVersion()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), &latest)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: latest}
	refused := func(p *corev1.PodTemplateSpec) []string {
		var why []string
		for _, result := range evaluator.EvaluatePod(restricted, &p.ObjectMeta, &p.Spec) {
			if !result.Allowed {
				why = append(why, result.ForbiddenReason+": "+result.ForbiddenDetail)
			}
		}
		return why
	}
	for _, d := range r.deployments {
		for _, why := range refused(&d.Spec.Template) {
			t.Errorf("%s: %s", d.Name, why)
		}
	}
	for _, j := range prepare.jobs {
		for _, why := range refused(&j.Spec.Template) {
			t.Errorf("%s: %s", j.Name, why)
		}
	}
	spoilt := r.deployments[0].Spec.Template.DeepCopy()
	spoilt.Spec.Containers[0].SecurityContext.Capabilities = nil
	if len(refused(spoilt)) == 0 {
		t.Error("a pod with capabilities passes, so this test shows nothing")
	}
}

// TestPreparation: the job runs the tool's step, and nothing else.
func TestPreparation(t *testing.T) {
	r, err := render("init")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.jobs) != 1 || len(r.deployments) != 0 {
		t.Fatalf("%d jobs, %d deployments", len(r.jobs), len(r.deployments))
	}
	spec := r.jobs[0].Spec.Template.Spec
	var ran []string
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		ran = append(ran, strings.Join(c.Args, " "))
		if c.Image != "databus/databus:dev" {
			t.Errorf("%s runs %s", c.Name, c.Image)
		}
	}
	if want := []string{"init"}; !slices.Equal(ran, want) {
		t.Errorf("the job runs %v, want %v", ran, want)
	}
}

// TestStrictDecoding proves that render would notice what a cluster's admission drops or refuses.
func TestStrictDecoding(t *testing.T) {
	for name, text := range map[string]string{
		"a misspelt field":       "apiVersion: apps/v1\nkind: Deployment\nspec: {replica: 1}",
		"a wrong type":           "apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: one}",
		"a field in wrong place": "apiVersion: apps/v1\nkind: Deployment\nspec: {template: {spec: {readinessProbe: {}}}}",
		"a bad quantity":         "apiVersion: apps/v1\nkind: Deployment\nspec: {template: {spec: {containers: [{name: c, resources: {limits: {memory: 1Gb}}}]}}}",
	} {
		var r rendered
		if err := r.add("apps/v1 Deployment", []byte(text)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	var r rendered
	if err := r.add("apps/v1beta1 Deployment", nil); err == nil {
		t.Error("an unexpected kind is accepted")
	}
}

func variable(c corev1.Container, name string) *corev1.EnvVar {
	for i := range c.Env {
		if c.Env[i].Name == name {
			return &c.Env[i]
		}
	}
	return nil
}

func port(c corev1.Container, name string) int32 {
	for _, p := range c.Ports {
		if p.Name == name {
			return p.ContainerPort
		}
	}
	return 0
}
