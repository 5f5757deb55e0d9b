package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// createAttestation signs with the audit key what the gateway knows of a document: its hash, who
// presents it, and the keys. The audit key signs no text of a caller's choice.
func createAttestation(ctx context.Context, c *call, req *kms.CreateAttestationRequest) (*kms.CreateAttestationResponse, error) {
	if hash, err := hex.DecodeString(req.Document); err != nil || len(hash) != sha256.Size || hex.EncodeToString(hash) != req.Document {
		return nil, kms.InvalidParameter("Document", "it is not a SHA-256 in lower-case hexadecimal")
	}
	c.entry.Subject = req.Kind + "/" + req.Document
	var inspector hsm.Inspector
	if req.Inspect != nil && *req.Inspect {
		var err error
		if inspector, err = inspectorOf(c); err != nil {
			return nil, err
		}
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	head := c.server.config.Audit.Head()
	keys, err := attestKeys(ctx, c, inspector, req.KeyVersions)
	if err != nil {
		return nil, err
	}
	a := kms.Attestation{Format: audit.AttestationFormat, Kind: req.Kind, Document: req.Document, Time: c.now,
		Instance: c.server.arns.Instance(c.server.instance.InstanceId), Principal: c.principal.Name, LoginUid: c.entry.LoginUid,
		RequestId: c.requestId, Keys: keys}
	a.AuditHead.Seq, a.AuditHead.Hash = head.Seq, head.Hash
	if inspector != nil {
		survey, err := inspector.Survey(ctx)
		if err != nil {
			return nil, err
		}
		a.Module, a.Token = &survey.Module, &survey.Token
	}
	text, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	signature, err := c.server.config.Audit.SignAttestation(ctx, text)
	return &kms.CreateAttestationResponse{Attestation: text, Signature: signature}, err
}

// attestKeys describes key versions. It leaves out those that do not exist.
func attestKeys(ctx context.Context, c *call, inspector hsm.Inspector, names []kms.KeyVersionName) ([]kms.AttestedKey, error) {
	all := []kms.AttestedKey{}
	for _, name := range names {
		key, err := attestKey(ctx, c, inspector, name)
		if errors.Is(err, kms.ErrKeyNotFound) || errors.Is(err, kms.ErrKeyVersionNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, key)
	}
	if len(names) != 1 { // the audit line has room for one key
		c.entry.KeyId, c.entry.KeyVersionId, c.entry.KeySpec = "", "", ""
	}
	return all, nil
}

// attestKey describes a key version whose public key the backend has proven. With an inspector it
// signs with the key once and reads its attributes.
func attestKey(ctx context.Context, c *call, inspector hsm.Inspector, name kms.KeyVersionName) (a kms.AttestedKey, err error) {
	key, err := c.key(name.KeyId)
	if err != nil {
		return a, err
	}
	version, err := c.version(key, name.KeyVersionId)
	if err != nil {
		return a, err
	}
	a = kms.AttestedKey{KeyId: key.KeyId, KeyVersionId: version.KeyVersionId, KeySpec: key.KeySpec, KeyState: string(key.KeyState),
		CreationDate: version.CreationDate, PublicKey: version.Key.Public, Protection: kms.ProtectionToken}
	if version.Key.Sealed != nil {
		a.Protection = kms.ProtectionSealed
	}
	if inspector == nil {
		return a, c.server.pairs.Prove(ctx, version)
	}
	if _, err := tryVersion(ctx, c, key, version, 1); err != nil {
		return a, err
	}
	if a.Attributes, err = inspector.Attributes(ctx, version.Key); err != nil {
		return a, explain(err)
	}
	return a, nil
}
