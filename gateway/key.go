package gateway

import (
	"cmp"
	"context"
	"regexp"
	"slices"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// The values of some parameters, as KMS spells them.
const (
	signVerify     = "SIGN/VERIFY"
	encryptDecrypt = "ENCRYPT/DECRYPT"
	originKMS      = "Aliyun_KMS"
	originExternal = "EXTERNAL"
	protectionHSM  = "HSM"
	protectionSoft = "SOFTWARE"
)

func (s *Server) metadata(k store.Key) kms.KeyMetadata {
	return kms.KeyMetadata{
		Arn:               s.arns.Key(k.KeyId),
		AutomaticRotation: "Disabled",
		CreationDate:      kms.FormatTime(k.CreationDate),
		Creator:           k.Creator,
		DKMSInstanceId:    s.instance.InstanceId,
		DeleteDate:        kms.FormatTime(k.DeleteDate),
		Description:       k.Description,
		KeyId:             k.KeyId,
		KeySpec:           string(k.KeySpec),
		KeyState:          k.KeyState,
		KeyUsage:          k.KeyUsage,
		Origin:            k.Origin,
		ProtectionLevel:   k.ProtectionLevel,
	}
}

func createKey(ctx context.Context, c *call, req *kms.CreateKeyRequest) (*kms.CreateKeyResponse, error) {
	return makeKey(ctx, c, req, func(permitted, *store.Tx) error { return nil })
}

// createNamedKey creates a key and its alias in one transaction. If several requests name the same
// alias at the same time, only one creates a key, even if their caller no longer waits for it.
func createNamedKey(ctx context.Context, c *call, req *kms.CreateNamedKeyRequest) (*kms.CreateKeyResponse, error) {
	if err := kms.CheckAliasName(req.AliasName); err != nil {
		return nil, err
	}
	c.entry.Alias = req.AliasName
	key := &kms.CreateKeyRequest{KeySpec: req.KeySpec, Description: req.Description, Policy: req.Policy, Tags: req.Tags}
	return makeKey(ctx, c, key, func(key permitted, tx *store.Tx) error { return putAlias(c, tx, key, req.AliasName) })
}

// makeKey creates a key, and changes records with it in the same transaction.
func makeKey(ctx context.Context, c *call, req *kms.CreateKeyRequest, change func(permitted, *store.Tx) error) (*kms.CreateKeyResponse, error) {
	key, err := newKey(ctx, c, req)
	if err != nil {
		return nil, err
	}
	if err := c.authorizeOperation(); err != nil {
		return nil, err
	}
	if err := checkOffered(c, req, key); err != nil {
		return nil, err
	}
	made, put := newPermitted(c, key)
	_, err = createVersion(ctx, c, made, func(tx *store.Tx) error {
		if err := put(tx); err != nil {
			return err
		}
		return change(made, tx)
	})
	if err != nil {
		return nil, err
	}
	return &kms.CreateKeyResponse{KeyMetadata: c.server.metadata(key)}, nil
}

// newKey returns the record of the key that CreateKey asks for. It refuses parameters that
// are invalid by themselves.
func newKey(ctx context.Context, c *call, req *kms.CreateKeyRequest) (store.Key, error) {
	oneOf := func(name, value string, values ...string) error {
		if value != "" && !slices.Contains(values, value) {
			return kms.InvalidParameter(name, "%q is not one of %v", kms.Clip(value), values)
		}
		return nil
	}
	tags, tagErr := parseTags(req.Tags)
	for _, err := range []error{
		oneOf("DKMSInstanceId", req.DKMSInstanceId, c.server.instance.InstanceId),
		checkKeyPolicy(req.Policy),
		checkInterval(req.RotationInterval),
		tagErr,
	} {
		if err != nil {
			return store.Key{}, err
		}
	}
	preset := presetOf(ctx)
	key := store.Key{
		KeyId:           cmp.Or(preset.KeyId, uuid.NewString()),
		KeySpec:         hsm.KeySpec(req.KeySpec),
		KeyUsage:        signVerify,
		KeyState:        store.Enabled,
		Origin:          cmp.Or(preset.Origin, originKMS),
		ProtectionLevel: req.ProtectionLevel,
		Description:     req.Description,
		Creator:         c.principal.Name,
		CreationDate:    c.now,
		Tags:            tags,
		Policy:          req.Policy,
	}
	if key.ProtectionLevel == "" {
		key.ProtectionLevel = strongestProtection(key.KeySpec)
	}
	return key, nil
}

// strongestProtection returns HSM, or SOFTWARE for a KeySpec whose keys are used in this
// process's memory.
func strongestProtection(spec hsm.KeySpec) string {
	if spec == hsm.EC_SM2 {
		return protectionSoft
	}
	return protectionHSM
}

// checkOffered refuses keys that KMS supports and this gateway does not.
func checkOffered(c *call, req *kms.CreateKeyRequest, key store.Key) error {
	c.entry.KeySpec = kms.Clip(req.KeySpec)
	switch {
	case !slices.Contains(hsm.KeySpecs(), key.KeySpec):
		return kms.ErrUnsupportedOperation.Because("The parameter \"KeySpec\" must be one of %v.", hsm.KeySpecs())
	case req.KeyUsage == encryptDecrypt:
		return kms.ErrUnsupportedOperation.Because(
			"The parameter \"KeyUsage\" must be %s: this gateway signs and does not encrypt.", signVerify)
	case req.Origin == originExternal:
		return kms.ErrUnsupportedOperation.Because(
			"The parameter \"Origin\" must be %s: this gateway cannot import key material.", originKMS)
	case req.EnableAutomaticRotation != nil && *req.EnableAutomaticRotation:
		return kms.ErrUnsupportedOperation.Because(
			"The parameter \"EnableAutomaticRotation\" must be false: asymmetric keys are not rotated automatically.")
	case key.ProtectionLevel == protectionHSM && strongestProtection(key.KeySpec) != protectionHSM:
		return kms.ErrUnsupportedOperation.Because(
			"The parameter \"ProtectionLevel\" cannot be %s: %s keys are software keys, sealed by the token.",
			protectionHSM, key.KeySpec)
	}
	return nil
}

var interval = regexp.MustCompile(`^[1-9][0-9]{0,8}[dhms]$`)

// checkInterval checks a RotationInterval against KMS's format. The interval has no effect,
// because checkOffered refuses automatic rotation.
func checkInterval(s string) error {
	if s != "" && !interval.MatchString(s) {
		return kms.InvalidParameter("RotationInterval", "it must be a number and one of d, h, m, s, as in 30d")
	}
	return nil
}

func describeKey(_ context.Context, c *call, req *kms.DescribeKeyRequest) (*kms.DescribeKeyResponse, error) {
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := new(kms.DescribeKeyResponse)
	resp.KeyMetadata.KeyMetadata = c.server.metadata(key.Key)
	resp.KeyMetadata.DeletionProtection = "Disabled"
	if key.Protected {
		resp.KeyMetadata.DeletionProtection = "Enabled"
		resp.KeyMetadata.DeletionProtectionDescription = key.ProtectedWhy
	}
	return resp, nil
}

func listKeys(_ context.Context, c *call, req *kms.ListKeysRequest) (*kms.ListKeysResponse, error) {
	page := kms.NewPage(req.PageNumber, req.PageSize, kms.DefaultPageSize)
	filter, err := parseFilters(req.Filters)
	if err != nil {
		return nil, err
	}
	keys, total, err := c.keys(filter, page)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := &kms.ListKeysResponse{PageInfo: page}
	resp.TotalCount = total
	resp.Keys.Key = []kms.KeyItem{} // an empty list is [], not null
	for _, k := range keys {
		resp.Keys.Key = append(resp.Keys.Key, kms.KeyItem{KeyArn: c.server.arns.Key(k.KeyId), KeyId: k.KeyId})
	}
	return resp, nil
}
