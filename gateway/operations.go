package gateway

import (
	"context"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
)

// A door is a way into the corridor.
type door string

const (
	rpcDoor    door = "rpc"    // HTTPS, for the world
	nativeDoor door = "native" // HTTPS too, for programs with client keys
	adminDoor  door = "admin"  // a unix socket, for root and whom the gateway runs as
	localDoor  door = "local"  // this process itself
)

// isRemote reports whether what comes through the door comes over the network.
func (d door) isRemote() bool { return d == rpcDoor || d == nativeDoor }

// An operation is one row of the table.
type operation struct {
	quota    limit.Quota
	door     door // the most public door through which it can be had
	business bool // the business of a dedicated gateway: to use keys
	run      func(ctx context.Context, c *call) (kms.Response, error)
}

// op makes a row of a function: the parameters are decoded into a Req before it
// is called.
func op[Req, Resp any, R interface {
	*Resp
	kms.Response
}](q limit.Quota, d door, f func(ctx context.Context, c *call, req *Req) (R, error)) operation {
	return operation{q, d, q == limit.Asymmetric, func(ctx context.Context, c *call) (kms.Response, error) {
		req := new(Req)
		if err := kms.Decode(c.parameters, req); err != nil {
			return nil, err
		}
		resp, err := f(ctx, c, req)
		if err != nil {
			return nil, err // not resp: a nil R in a response is not nil
		}
		return resp, nil
	}}
}

// business marks an operation that is one of a dedicated gateway's business
// though it is not charged as such by a shared one.
func business(o operation) operation {
	o.business = true
	return o
}

// operations is the table of all that can be asked for.
var operations = map[string]operation{
	"AsymmetricSign":   op(limit.Asymmetric, rpcDoor, asymmetricSign),
	"AsymmetricVerify": op(limit.Asymmetric, rpcDoor, asymmetricVerify),
	"GetPublicKey":     business(op(limit.KeyRead, rpcDoor, getPublicKey)),
	"GenerateRandom":   op(limit.Asymmetric, nativeDoor, generateRandom),

	"CreateKey":             op(limit.KeyCreation, rpcDoor, createKey),
	"DescribeKey":           op(limit.KeyRead, rpcDoor, describeKey),
	"ListKeys":              op(limit.KeyRead, rpcDoor, listKeys),
	"EnableKey":             op(limit.KeyWrite, rpcDoor, enableKey),
	"DisableKey":            op(limit.KeyWrite, rpcDoor, disableKey),
	"ScheduleKeyDeletion":   op(limit.KeyWrite, rpcDoor, scheduleKeyDeletion),
	"CancelKeyDeletion":     op(limit.KeyWrite, rpcDoor, cancelKeyDeletion),
	"SetDeletionProtection": op(limit.KeyWrite, rpcDoor, setDeletionProtection),
	"UpdateKeyDescription":  op(limit.KeyWrite, rpcDoor, updateKeyDescription),

	"CreateKeyVersion":   op(limit.KeyWrite, rpcDoor, createKeyVersion),
	"DescribeKeyVersion": op(limit.KeyRead, rpcDoor, describeKeyVersion),
	"ListKeyVersions":    op(limit.KeyRead, rpcDoor, listKeyVersions),

	"CreateAlias":        op(limit.KeyWrite, rpcDoor, createAlias),
	"UpdateAlias":        op(limit.KeyWrite, rpcDoor, updateAlias),
	"DeleteAlias":        op(limit.KeyWrite, rpcDoor, deleteAlias),
	"ListAliases":        op(limit.KeyRead, rpcDoor, listAliases),
	"ListAliasesByKeyId": op(limit.KeyRead, rpcDoor, listAliasesByKeyId),

	"TagResource":      op(limit.KeyWrite, rpcDoor, tagResource),
	"UntagResource":    op(limit.KeyWrite, rpcDoor, untagResource),
	"ListResourceTags": op(limit.TagQuery, rpcDoor, listResourceTags),
	"TagResources":     op(limit.KeyWrite, rpcDoor, tagResources),
	"UntagResources":   op(limit.KeyWrite, rpcDoor, untagResources),
	"ListTagResources": op(limit.KeyRead, rpcDoor, listTagResources),

	"SetKeyPolicy": op(limit.KeyWrite, rpcDoor, setKeyPolicy),
	"GetKeyPolicy": op(limit.KeyRead, rpcDoor, getKeyPolicy),

	"CreateNetworkRule":   op(limit.KeyWrite, rpcDoor, createNetworkRule),
	"DescribeNetworkRule": op(limit.KeyRead, rpcDoor, describeNetworkRule),
	"ListNetworkRules":    op(limit.KeyRead, rpcDoor, listNetworkRules),
	"UpdateNetworkRule":   op(limit.KeyWrite, rpcDoor, updateNetworkRule),
	"DeleteNetworkRule":   op(limit.KeyWrite, rpcDoor, deleteNetworkRule),

	"CreatePolicy":   op(limit.KeyWrite, rpcDoor, createPolicy),
	"DescribePolicy": op(limit.KeyRead, rpcDoor, describePolicy),
	"ListPolicies":   op(limit.KeyRead, rpcDoor, listPolicies),
	"UpdatePolicy":   op(limit.KeyWrite, rpcDoor, updatePolicy),
	"DeletePolicy":   op(limit.KeyWrite, rpcDoor, deletePolicy),

	"CreateApplicationAccessPoint":   op(limit.KeyWrite, rpcDoor, createApplicationAccessPoint),
	"DescribeApplicationAccessPoint": op(limit.KeyRead, rpcDoor, describeApplicationAccessPoint),
	"ListApplicationAccessPoints":    op(limit.KeyRead, rpcDoor, listApplicationAccessPoints),
	"UpdateApplicationAccessPoint":   op(limit.KeyWrite, rpcDoor, updateApplicationAccessPoint),
	"DeleteApplicationAccessPoint":   op(limit.KeyWrite, rpcDoor, deleteApplicationAccessPoint),

	"CreateClientKey": op(limit.KeyWrite, rpcDoor, createClientKey),
	"GetClientKey":    op(limit.KeyRead, rpcDoor, getClientKey),
	"ListClientKeys":  op(limit.KeyRead, rpcDoor, listClientKeys),
	"DeleteClientKey": op(limit.KeyWrite, rpcDoor, deleteClientKey),

	"DescribeRegions":          op(limit.KeyRead, rpcDoor, describeRegions),
	"DescribeAccountKmsStatus": op(limit.Activation, rpcDoor, describeAccountKmsStatus),
	"OpenKmsService":           op(limit.Activation, rpcDoor, openKmsService),
	"GetKmsInstance":           op(limit.InstanceRead, rpcDoor, getKmsInstance),
	"ListKmsInstances":         op(limit.InstanceRead, rpcDoor, listKmsInstances),

	"CreateUser":   op(limit.Administration, adminDoor, createUser),
	"ListUsers":    op(limit.Administration, adminDoor, listUsers),
	"DeleteUser":   op(limit.Administration, adminDoor, deleteUser),
	"ListQuotas":   op(limit.Administration, adminDoor, listQuotas),
	"SetUserQuota": op(limit.Administration, adminDoor, setUserQuota),

	"CreateAccessKey": op(limit.Administration, adminDoor, createAccessKey),
	"ListAccessKeys":  op(limit.Administration, adminDoor, listAccessKeys),
	"UpdateAccessKey": op(limit.Administration, adminDoor, updateAccessKey),
	"DeleteAccessKey": op(limit.Administration, adminDoor, deleteAccessKey),

	"CreateRamPolicy":      op(limit.Administration, adminDoor, createRamPolicy),
	"GetRamPolicy":         op(limit.Administration, adminDoor, getRamPolicy),
	"ListRamPolicies":      op(limit.Administration, adminDoor, listRamPolicies),
	"UpdateRamPolicy":      op(limit.Administration, adminDoor, updateRamPolicy),
	"DeleteRamPolicy":      op(limit.Administration, adminDoor, deleteRamPolicy),
	"AttachPolicyToUser":   op(limit.Administration, adminDoor, attachPolicyToUser),
	"DetachPolicyFromUser": op(limit.Administration, adminDoor, detachPolicyFromUser),
	"SimulatePolicy":       op(limit.Administration, adminDoor, simulatePolicy),

	"DescribeToken":      op(limit.Administration, adminDoor, describeToken),
	"ListTokenObjects":   op(limit.Administration, adminDoor, listTokenObjects),
	"TestKeyVersion":     op(limit.Administration, adminDoor, testKeyVersion),
	"DestroyTokenObject": op(limit.Administration, adminDoor, destroyTokenObject),

	"GetAuditHead": op(limit.Administration, adminDoor, getAuditHead),

	"CreateBackup": op(limit.Administration, adminDoor, createBackup),
}

// unsupported are the operations that KMS has (kms-20160120 v3.2.3 and v4.1.0)
// and this gateway has not.
var unsupported = []string{
	"AsymmetricDecrypt", "AsymmetricEncrypt", "CertificatePrivateKeyDecrypt", "CertificatePrivateKeySign",
	"CertificatePublicKeyEncrypt", "CertificatePublicKeyVerify", "ConnectKmsInstance", "CreateCertificate",
	"CreateSecret", "Decrypt", "DeleteCertificate", "DeleteKeyMaterial", "DeleteSecret", "DescribeCertificate",
	"DescribeSecret", "Encrypt", "ExportDataKey", "GenerateAndExportDataKey", "GenerateDataKey",
	"GenerateDataKeyWithoutPlaintext", "GenerateMac", "GetCertificate", "GetDefaultKmsInstance",
	"GetKmsInstanceQuotaInfos", "GetManagedDataKey", "GetParametersForImport", "GetRandomPassword",
	"GetSecretPolicy", "GetSecretValue", "ImportKeyMaterial", "ListManagedDataKeyVersions",
	"ListSecretVersionIds", "ListSecrets", "PutSecretValue", "ReEncrypt", "ReleaseKmsInstance", "RestoreSecret",
	"RotateSecret", "SetSecretPolicy", "UpdateCertificateStatus", "UpdateKmsInstanceBindVpc",
	"UpdateRotationPolicy", "UpdateSecret", "UpdateSecretRotationPolicy", "UpdateSecretVersionStage",
	"UploadCertificate", "VerifyMac",
}
