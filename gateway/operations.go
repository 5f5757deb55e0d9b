package gateway

import "context"

// A class is what operations are charged to: quotas are per user and class.
type class string

const (
	// Crypto operations use a key: AsymmetricSign, AsymmetricVerify.
	crypto class = "crypto"
	// Control operations are all others.
	control class = "control"
)

// A door is a way into the corridor.
type door string

const (
	rpcDoor   door = "rpc"   // HTTPS, for the world
	localDoor door = "local" // this process itself
)

// An operation is one row of the table.
type operation struct {
	class class
	door  door // the most public door through which it can be had
	run   func(ctx context.Context, c *call) (response, error)
}

// A response is an operation's answer. Its exported fields are its members.
type response interface{ setRequestId(string) }

// result is part of every response.
type result struct{ RequestId string }

func (r *result) setRequestId(id string) { r.RequestId = id }

// op makes a row of a function: the parameters are decoded into a Req before it
// is called.
func op[Req, Resp any, R interface {
	*Resp
	response
}](cl class, d door, f func(ctx context.Context, c *call, req *Req) (R, error)) operation {
	return operation{cl, d, func(ctx context.Context, c *call) (response, error) {
		req := new(Req)
		if err := decode(c.parameters, req); err != nil {
			return nil, err
		}
		resp, err := f(ctx, c, req)
		if err != nil {
			return nil, err // not resp: a nil R in a response is not nil
		}
		return resp, nil
	}}
}

// operations is the table of all that can be asked for.
var operations = map[string]operation{
	"AsymmetricSign":   op(crypto, rpcDoor, asymmetricSign),
	"AsymmetricVerify": op(crypto, rpcDoor, asymmetricVerify),
	"GetPublicKey":     op(control, rpcDoor, getPublicKey),

	"CreateKey":             op(control, rpcDoor, createKey),
	"DescribeKey":           op(control, rpcDoor, describeKey),
	"ListKeys":              op(control, rpcDoor, listKeys),
	"EnableKey":             op(control, rpcDoor, enableKey),
	"DisableKey":            op(control, rpcDoor, disableKey),
	"ScheduleKeyDeletion":   op(control, rpcDoor, scheduleKeyDeletion),
	"CancelKeyDeletion":     op(control, rpcDoor, cancelKeyDeletion),
	"SetDeletionProtection": op(control, rpcDoor, setDeletionProtection),
	"UpdateKeyDescription":  op(control, rpcDoor, updateKeyDescription),

	"CreateKeyVersion":   op(control, rpcDoor, createKeyVersion),
	"DescribeKeyVersion": op(control, rpcDoor, describeKeyVersion),
	"ListKeyVersions":    op(control, rpcDoor, listKeyVersions),

	"CreateAlias":        op(control, rpcDoor, createAlias),
	"UpdateAlias":        op(control, rpcDoor, updateAlias),
	"DeleteAlias":        op(control, rpcDoor, deleteAlias),
	"ListAliases":        op(control, rpcDoor, listAliases),
	"ListAliasesByKeyId": op(control, rpcDoor, listAliasesByKeyId),

	"TagResource":      op(control, rpcDoor, tagResource),
	"UntagResource":    op(control, rpcDoor, untagResource),
	"ListResourceTags": op(control, rpcDoor, listResourceTags),
	"TagResources":     op(control, rpcDoor, tagResources),
	"UntagResources":   op(control, rpcDoor, untagResources),
	"ListTagResources": op(control, rpcDoor, listTagResources),

	"SetKeyPolicy": op(control, rpcDoor, setKeyPolicy),
	"GetKeyPolicy": op(control, rpcDoor, getKeyPolicy),

	"DescribeRegions":          op(control, rpcDoor, describeRegions),
	"DescribeAccountKmsStatus": op(control, rpcDoor, describeAccountKmsStatus),
	"OpenKmsService":           op(control, rpcDoor, openKmsService),
	"GetKmsInstance":           op(control, rpcDoor, getKmsInstance),
	"ListKmsInstances":         op(control, rpcDoor, listKmsInstances),

	"CreateUser":      op(control, localDoor, createUser),
	"CreateAccessKey": op(control, localDoor, createAccessKey),
}

// unsupported are the operations that KMS has (kms-20160120 v3.2.3 and v4.1.0)
// and this gateway has not.
var unsupported = []string{
	"AsymmetricDecrypt", "AsymmetricEncrypt", "CertificatePrivateKeyDecrypt", "CertificatePrivateKeySign",
	"CertificatePublicKeyEncrypt", "CertificatePublicKeyVerify", "ConnectKmsInstance",
	"CreateApplicationAccessPoint", "CreateCertificate", "CreateClientKey", "CreateNetworkRule", "CreatePolicy",
	"CreateSecret", "Decrypt", "DeleteApplicationAccessPoint", "DeleteCertificate", "DeleteClientKey",
	"DeleteKeyMaterial", "DeleteNetworkRule", "DeletePolicy", "DeleteSecret", "DescribeApplicationAccessPoint",
	"DescribeCertificate", "DescribeNetworkRule", "DescribePolicy", "DescribeSecret", "Encrypt",
	"ExportDataKey", "GenerateAndExportDataKey", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext",
	"GenerateMac", "GetCertificate", "GetClientKey", "GetDefaultKmsInstance", "GetKmsInstanceQuotaInfos",
	"GetManagedDataKey", "GetParametersForImport", "GetRandomPassword", "GetSecretPolicy", "GetSecretValue",
	"ImportKeyMaterial", "ListApplicationAccessPoints", "ListClientKeys", "ListManagedDataKeyVersions",
	"ListNetworkRules", "ListPolicies", "ListSecretVersionIds", "ListSecrets", "PutSecretValue", "ReEncrypt",
	"ReleaseKmsInstance", "RestoreSecret", "RotateSecret", "SetSecretPolicy", "UpdateApplicationAccessPoint",
	"UpdateCertificateStatus", "UpdateKmsInstanceBindVpc", "UpdateNetworkRule", "UpdatePolicy",
	"UpdateRotationPolicy", "UpdateSecret", "UpdateSecretRotationPolicy", "UpdateSecretVersionStage",
	"UploadCertificate", "VerifyMac",
}
