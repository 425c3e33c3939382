package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
)

// apiError is an error of the Confluent API: an HTTP status and a code that clients tell apart.
type apiError struct {
	status, code int
	text         string
}

func (e *apiError) Error() string { return e.text }

var (
	errFull        = &apiError{http.StatusUnprocessableEntity, 42205, fmt.Sprintf("the registry holds at most %d subjects and %d versions of one", maxSubjects, maxVersions)}
	errNoSchema    = &apiError{http.StatusNotFound, 40403, "schema not found"}
	errLevel       = &apiError{http.StatusUnprocessableEntity, 42203, "compatibility level must be NONE, BACKWARD, FORWARD or FULL, the last three also with _TRANSITIVE"}
	errVersionText = &apiError{http.StatusUnprocessableEntity, 42202, "version must be a number above 0, or latest"}
)

func errNoSubject(subject string) error {
	return &apiError{http.StatusNotFound, 40401, fmt.Sprintf("subject %q not found", subject)}
}

func errInvalidSchema(err error) error {
	return &apiError{http.StatusUnprocessableEntity, 42201, "invalid schema: " + err.Error()}
}

func errIncompatible(subject, problem string) error {
	return &apiError{http.StatusConflict, 409, fmt.Sprintf("the schema is incompatible with an earlier one of subject %q (%s)", subject, problem)}
}

// subjectVersion is a schema under a subject.
type subjectVersion struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
	ID      int    `json:"id,omitempty"`
	Schema  string `json:"schema,omitempty"`
}

// handler routes the API. Every handler returns what is sent as JSON, or an error.
func (r *Registry) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			req.Body = http.MaxBytesReader(w, req.Body, maxBody)
			v, err := fn(req)
			reply(w, v, err)
		})
	}
	handle("GET /{$}", func(*http.Request) (any, error) { return struct{}{}, nil })
	handle("GET /schemas/types", func(*http.Request) (any, error) { return []string{"AVRO"}, nil })
	handle("GET /schemas/ids/{id}", r.getSchema)
	handle("GET /schemas/ids/{id}/versions", r.getSchemaVersions)
	handle("GET /subjects", r.getSubjects)
	handle("POST /subjects/{subject}", r.postLookup)
	handle("GET /subjects/{subject}/versions", r.getVersions)
	handle("POST /subjects/{subject}/versions", r.postVersion)
	handle("GET /subjects/{subject}/versions/{version}", r.getVersion)
	handle("POST /compatibility/subjects/{subject}/versions", r.postCompatibility)
	handle("POST /compatibility/subjects/{subject}/versions/{version}", r.postCompatibility)
	handle("GET /config", r.getConfig)
	handle("PUT /config", r.putConfig)
	handle("GET /config/{subject}", r.getConfig)
	handle("PUT /config/{subject}", r.putConfig)
	handle("DELETE /config/{subject}", r.deleteConfig)
	return mux
}

func reply(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		api := &apiError{http.StatusInternalServerError, 50001, err.Error()}
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			api = &apiError{http.StatusRequestEntityTooLarge, 42209, fmt.Sprintf("a request holds at most %d bytes", maxBody)}
		} else {
			errors.As(err, &api)
		}
		status = api.status
		v = map[string]any{"error_code": api.code, "message": api.text}
	}
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody to tell
}

func readBody(req *http.Request, v any) error {
	raw, err := io.ReadAll(req.Body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return errInvalidSchema(fmt.Errorf("the request is no JSON of the expected form: %w", err))
	}
	return nil
}

// readSchema reads the schema that a request carries.
func readSchema(req *http.Request) (string, error) {
	var body struct {
		Schema     string            `json:"schema"`
		SchemaType string            `json:"schemaType"`
		References []json.RawMessage `json:"references"`
	}
	if err := readBody(req, &body); err != nil {
		return "", err
	}
	switch {
	case body.SchemaType != "" && body.SchemaType != "AVRO":
		return "", errInvalidSchema(errors.New("this registry holds Avro schemas only"))
	case len(body.References) > 0:
		return "", errInvalidSchema(errors.New("this registry knows no references to other subjects"))
	case body.Schema == "":
		return "", errInvalidSchema(errors.New("the request has no schema"))
	}
	return body.Schema, nil
}

func (r *Registry) getSchema(req *http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	id, err := strconv.Atoi(req.PathValue("id"))
	if err != nil || id < 1 || id > len(r.state.Schemas) {
		return nil, errNoSchema
	}
	return map[string]string{"schema": r.state.Schemas[id-1]}, nil
}

func (r *Registry) getSchemaVersions(req *http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	id, err := strconv.Atoi(req.PathValue("id"))
	if err != nil || r.parsed[id] == nil {
		return nil, errNoSchema
	}
	found := []subjectVersion{}
	for _, name := range slices.Sorted(maps.Keys(r.state.Subjects)) {
		for i, have := range r.versions(name) {
			if have == id {
				found = append(found, subjectVersion{Subject: name, Version: i + 1})
			}
		}
	}
	return found, nil
}

func (r *Registry) getSubjects(*http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	names := []string{}
	for _, name := range slices.Sorted(maps.Keys(r.state.Subjects)) {
		if len(r.versions(name)) > 0 { // else only its level was set
			names = append(names, name)
		}
	}
	return names, nil
}

func (r *Registry) getVersions(req *http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	subject := req.PathValue("subject")
	n := len(r.versions(subject))
	if n == 0 {
		return nil, errNoSubject(subject)
	}
	versions := make([]int, n)
	for i := range versions {
		versions[i] = i + 1
	}
	return versions, nil
}

// version finds what a path's version means: an index into the subject's versions. The caller holds r.mu.
func (r *Registry) version(subject, text string) (int, error) {
	n := len(r.versions(subject))
	if n == 0 {
		return 0, errNoSubject(subject)
	}
	if text == "latest" || text == "-1" {
		return n - 1, nil
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < 1 {
		return 0, errVersionText
	}
	if v > n {
		return 0, &apiError{http.StatusNotFound, 40402, fmt.Sprintf("version %d of subject %q not found", v, subject)}
	}
	return v - 1, nil
}

func (r *Registry) getVersion(req *http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	subject := req.PathValue("subject")
	i, err := r.version(subject, req.PathValue("version"))
	if err != nil {
		return nil, err
	}
	id := r.versions(subject)[i]
	return subjectVersion{Subject: subject, Version: i + 1, ID: id, Schema: r.state.Schemas[id-1]}, nil
}

func (r *Registry) postVersion(req *http.Request) (any, error) {
	text, err := readSchema(req)
	if err != nil {
		return nil, err
	}
	id, err := r.register(req.PathValue("subject"), text)
	if err != nil {
		return nil, err
	}
	return map[string]int{"id": id}, nil
}

func (r *Registry) postLookup(req *http.Request) (any, error) {
	text, err := readSchema(req)
	if err != nil {
		return nil, err
	}
	_, identity, err := parseSchema(text)
	if err != nil {
		return nil, errInvalidSchema(err)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	subject := req.PathValue("subject")
	versions := r.versions(subject)
	if len(versions) == 0 {
		return nil, errNoSubject(subject)
	}
	id, known := r.byText[identity]
	i := slices.Index(versions, id)
	if !known || i < 0 {
		return nil, errNoSchema
	}
	return subjectVersion{Subject: subject, Version: i + 1, ID: id, Schema: r.state.Schemas[id-1]}, nil
}

func (r *Registry) postCompatibility(req *http.Request) (any, error) {
	text, err := readSchema(req)
	if err != nil {
		return nil, err
	}
	schema, _, err := parseSchema(text)
	if err != nil {
		return nil, errInvalidSchema(err)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	subject, level, problem := req.PathValue("subject"), r.level(req.PathValue("subject")), ""
	if v := req.PathValue("version"); v != "" {
		i, err := r.version(subject, v)
		if err != nil {
			return nil, err
		}
		problem = r.check(level, schema, r.versions(subject)[:i+1], false)
	} else {
		problem = r.check(level, schema, r.versions(subject), level.transitive())
	}
	answer := map[string]any{"is_compatible": problem == ""}
	if req.URL.Query().Get("verbose") == "true" && problem != "" {
		answer["messages"] = []string{problem}
	}
	return answer, nil
}

func (r *Registry) getConfig(req *http.Request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	subject := req.PathValue("subject")
	sub := r.state.Subjects[subject]
	if subject != "" && (sub == nil || sub.Level == "") && req.URL.Query().Get("defaultToGlobal") != "true" {
		return nil, &apiError{http.StatusNotFound, 40408, fmt.Sprintf("subject %q has no compatibility level of its own", subject)}
	}
	return map[string]Level{"compatibilityLevel": r.level(subject)}, nil
}

func (r *Registry) putConfig(req *http.Request) (any, error) {
	var body struct {
		Compatibility Level `json:"compatibility"`
	}
	if err := readBody(req, &body); err != nil {
		return nil, err
	}
	if !body.Compatibility.valid() {
		return nil, errLevel
	}
	if err := r.setLevel(req.PathValue("subject"), body.Compatibility); err != nil {
		return nil, err
	}
	return map[string]Level{"compatibility": body.Compatibility}, nil
}

func (r *Registry) deleteConfig(req *http.Request) (any, error) {
	r.mu.RLock()
	was := r.level(req.PathValue("subject"))
	r.mu.RUnlock()
	return map[string]Level{"compatibilityLevel": was}, r.setLevel(req.PathValue("subject"), "")
}

// setLevel sets a subject's level, or with no subject the registry's. An empty level takes the subject's own away.
func (r *Registry) setLevel(subject string, level Level) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.state.Subjects[subject]; subject != "" && !known && len(r.state.Subjects) >= maxSubjects {
		return errFull
	}
	return r.change(func(s *registryState) {
		if subject == "" {
			s.Level = level
			return
		}
		sub := s.subject(subject)
		sub.Level = level
		s.Subjects[subject] = sub
	})
}
