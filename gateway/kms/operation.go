package kms

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// A Door is a way into the gateway. Its value is its name in the audit log and in metrics.
type Door string

// The doors.
const (
	RPC    Door = "rpc"    // HTTPS, for all clients
	Native Door = "native" // HTTPS, for programs with client keys
	Admin  Door = "admin"  // a Unix socket, for root and the user that the gateway runs as
	Local  Door = "local"  // the gateway's process itself
)

// IsRemote reports whether requests reach the door over the network.
func (d Door) IsRemote() bool { return d == RPC || d == Native }

// An Operation describes an operation for the gateway, the command line and the documentation:
// everything except what it does.
type Operation struct {
	Name     string
	Door     Door  // the most public door that offers the operation
	Quota    Quota // the quota that a request is charged to
	Business bool  // reports whether a dedicated gateway offers the operation: it uses keys

	// Timeout is how long the operation may take once its whole request has arrived. Zero means
	// as long as the caller waits: the operation ends by itself or sets its timeouts itself.
	Timeout time.Duration

	// Resource is the resource that the gateway authorizes the caller for, as in an ARN:
	// "key/{KeyId}", where the parameter in braces names the resource. An operation that changes
	// an alias is also authorized for the alias, and UpdateAlias for both keys. Empty means that
	// authentication is enough, or that only a local administrator can call the operation.
	Resource string

	// Native describes the operation in the native API. It is nil if that API does not offer it.
	Native *NativeOperation

	Request, Response reflect.Type // struct types; Response is nil if the answer is not a message
	Differences       string       // from Alibaba Cloud KMS, as Markdown for users
}

// A NativeOperation describes an operation in the native API. The gateway charges, authorizes and
// audits it as the operation that it belongs to.
type NativeOperation struct {
	Name        string // the ApiName
	MaxBody     int64  // the largest request body, in bytes
	Differences string // from the operation of the RPC API; empty if there are none
}

// FindNative returns the operation with the given ApiName in the native API.
func FindNative(name string) (Operation, bool) {
	i := slices.IndexFunc(Operations, func(o Operation) bool { return o.Native != nil && o.Native.Name == name })
	if i < 0 {
		return Operation{}, false
	}
	return Operations[i], true
}

// Parameters returns the parameters of the operation, in the order of its documentation.
func (o Operation) Parameters() []Parameter { return parametersOf(o.Request) }

// ResourceKind returns the part of Resource before the named parameter: "key" for "key/{KeyId}".
// ok reports whether the operation has a single resource.
func (o Operation) ResourceKind() (kind string, ok bool) {
	kind, _, ok = strings.Cut(o.Resource, "/{")
	return kind, ok
}

// Find returns the operation with the given name.
func Find(name string) (Operation, bool) {
	i, ok := byName[name]
	if !ok {
		return Operation{}, false
	}
	return Operations[i], true
}

var byName = func() map[string]int {
	all := make(map[string]int, len(Operations))
	for i, o := range Operations {
		all[o.Name] = i
	}
	return all
}()

// MaxNativeBody is the largest body of a request of the native API, in bytes. KMS documents 3 MB.
const MaxNativeBody = 3 << 20

const (
	signTimeout    = 2500 * time.Millisecond // the Node SDKs give up after 3 s
	inspectTimeout = 45 * time.Second        // listing 60,000 objects takes 12 s on SoftHSM
)

// Operations is the table of all operations. Callers must not change it.
var Operations = []Operation{
	{Name: "AsymmetricSign", Door: RPC, Quota: QuotaAsymmetric, Business: true,
		Timeout: signTimeout, Resource: "key/{KeyId}",
		Native: &NativeOperation{Name: "Sign", MaxBody: MaxNativeBody,
			Differences: "Like AsymmetricSign, but of a message: RAW, which the gateway hashes (for SM2 with the " +
				"default user ID), or DIGEST."},
		Request: reflect.TypeFor[AsymmetricSignRequest](), Response: reflect.TypeFor[AsymmetricSignResponse]()},
	{Name: "AsymmetricVerify", Door: RPC, Quota: QuotaAsymmetric, Business: true, Resource: "key/{KeyId}",
		Native: &NativeOperation{Name: "Verify", MaxBody: MaxNativeBody,
			Differences: "Like AsymmetricVerify, but of a message."},
		Request: reflect.TypeFor[AsymmetricVerifyRequest](), Response: reflect.TypeFor[AsymmetricVerifyResponse](),
		Differences: "The answer for a malformed signature is `Value: false`."},
	{Name: "GetPublicKey", Door: RPC, Quota: QuotaKeyRead, Business: true, Resource: "key/{KeyId}",
		Native:  &NativeOperation{Name: "GetPublicKey", MaxBody: MaxNativeBody},
		Request: reflect.TypeFor[GetPublicKeyRequest](), Response: reflect.TypeFor[GetPublicKeyResponse]()},
	{Name: "GenerateRandom", Door: Native, Quota: QuotaAsymmetric, Business: true, Timeout: signTimeout, Resource: "*",
		Native: &NativeOperation{Name: "GenerateRandom", MaxBody: MaxNativeBody,
			Differences: "1 to 1,024 bytes, made by the token. The answer is UnsupportedOperation if the token " +
				"has no generator, or one that repeats itself."},
		Request: reflect.TypeFor[GenerateRandomRequest](), Response: reflect.TypeFor[GenerateRandomResponse]()},

	{Name: "CreateKey", Door: RPC, Quota: QuotaKeyCreation, Resource: "key",
		Request: reflect.TypeFor[CreateKeyRequest](), Response: reflect.TypeFor[CreateKeyResponse](),
		Differences: "KeySpec is required: the default of KMS is a symmetric key. Making an RSA_4096 key pair " +
			"takes seconds, and the Node SDKs give up after 3 s by default. EC_SM2 keys are software keys, so " +
			"ProtectionLevel HSM is refused for them. It is the default for all other keys. Automatic rotation, " +
			"Origin EXTERNAL and KeyUsage ENCRYPT/DECRYPT are refused."},
	{Name: "DescribeKey", Door: RPC, Quota: QuotaKeyRead, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[DescribeKeyRequest](), Response: reflect.TypeFor[DescribeKeyResponse](),
		Differences: "PrimaryKeyVersion is empty, and so are all members about rotation and imported key material."},
	{Name: "ListKeys", Door: RPC, Quota: QuotaKeyRead, Resource: "key",
		Request: reflect.TypeFor[ListKeysRequest](), Response: reflect.TypeFor[ListKeysResponse]()},
	{Name: "EnableKey", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[KeyRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "DisableKey", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[KeyRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "ScheduleKeyDeletion", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[ScheduleKeyDeletionRequest](), Response: reflect.TypeFor[EmptyResponse](),
		Differences: "The answer for a protected key is Rejected.StateModifiedFailed."},
	{Name: "CancelKeyDeletion", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[KeyRequest](), Response: reflect.TypeFor[EmptyResponse](),
		Differences: "The key is Enabled afterwards, whatever its state was before."},
	{Name: "SetDeletionProtection", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{ProtectedResourceArn}",
		Request: reflect.TypeFor[SetDeletionProtectionRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "UpdateKeyDescription", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[UpdateKeyDescriptionRequest](), Response: reflect.TypeFor[EmptyResponse]()},

	{Name: "CreateKeyVersion", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[CreateKeyVersionRequest](), Response: reflect.TypeFor[KeyVersionResponse](),
		Differences: "Works for the keys of an instance, too. KMS offers it only for keys outside instances. The " +
			"minimum interval between versions is configurable."},
	{Name: "DescribeKeyVersion", Door: RPC, Quota: QuotaKeyRead, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[DescribeKeyVersionRequest](), Response: reflect.TypeFor[KeyVersionResponse]()},
	{Name: "ListKeyVersions", Door: RPC, Quota: QuotaKeyRead, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[ListKeyVersionsRequest](), Response: reflect.TypeFor[ListKeyVersionsResponse]()},

	{Name: "CreateAlias", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[CreateAliasRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "UpdateAlias", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[UpdateAliasRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "DeleteAlias", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{AliasName}",
		Request: reflect.TypeFor[DeleteAliasRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "ListAliases", Door: RPC, Quota: QuotaKeyRead, Resource: "alias",
		Request: reflect.TypeFor[ListAliasesRequest](), Response: reflect.TypeFor[ListAliasesResponse]()},
	{Name: "ListAliasesByKeyId", Door: RPC, Quota: QuotaKeyRead, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[ListAliasesByKeyIdRequest](), Response: reflect.TypeFor[ListAliasesResponse]()},

	{Name: "TagResource", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[TagResourceRequest](), Response: reflect.TypeFor[EmptyResponse](),
		Differences: "Only keys have tags, at most 20 each."},
	{Name: "UntagResource", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[UntagResourceRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "ListResourceTags", Door: RPC, Quota: QuotaTagQuery, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[KeyRequest](), Response: reflect.TypeFor[ListResourceTagsResponse]()},
	{Name: "TagResources", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{ResourceId}",
		Request: reflect.TypeFor[TagResourcesRequest](), Response: reflect.TypeFor[EmptyResponse](),
		Differences: "RegionId must be that of the instance, and ResourceType must be key. At most 50 keys, with " +
			"at most 20 tags each. Either all keys change or none."},
	{Name: "UntagResources", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{ResourceId}",
		Request: reflect.TypeFor[UntagResourcesRequest](), Response: reflect.TypeFor[EmptyResponse](),
		Differences: "As for TagResources."},
	{Name: "ListTagResources", Door: RPC, Quota: QuotaKeyRead, Resource: "key",
		Request: reflect.TypeFor[ListTagResourcesRequest](), Response: reflect.TypeFor[ListTagResourcesResponse](),
		Differences: "NextToken is a KeyId. Without ResourceId, the list omits keys that the caller is not " +
			"permitted to see."},

	{Name: "SetKeyPolicy", Door: RPC, Quota: QuotaKeyWrite, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[SetKeyPolicyRequest](), Response: reflect.TypeFor[EmptyResponse](),
		Differences: "Resource must be `[\"*\"]`. An Allow admits users of the account in addition to their own " +
			"policies. A Deny in either policy wins. `acs:ram::<account>:*` means all users, but not root, as " +
			"which a local administrator acts: a key policy cannot lock everybody out."},
	{Name: "GetKeyPolicy", Door: RPC, Quota: QuotaKeyRead, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[GetKeyPolicyRequest](), Response: reflect.TypeFor[GetKeyPolicyResponse](),
		Differences: "For a key without a key policy, the answer is the default policy of KMS. By itself, that " +
			"policy allows nobody anything here."},

	{Name: "CreateNetworkRule", Door: RPC, Quota: QuotaKeyWrite, Resource: "network/{Name}",
		Request: reflect.TypeFor[CreateNetworkRuleRequest](), Response: reflect.TypeFor[CreateNetworkRuleResponse](),
		Differences: "SourcePrivateIp is required: 1 to 100 addresses and prefixes, IPv4 and IPv6. At most 1,000 " +
			"rules. The answer for a Name that is taken is Rejected.ResourceExist."},
	{Name: "DescribeNetworkRule", Door: RPC, Quota: QuotaKeyRead, Resource: "network/{Name}",
		Request: reflect.TypeFor[NameRequest](), Response: reflect.TypeFor[DescribeNetworkRuleResponse]()},
	{Name: "ListNetworkRules", Door: RPC, Quota: QuotaKeyRead, Resource: "network",
		Request: reflect.TypeFor[ListNamedRequest](), Response: reflect.TypeFor[ListNetworkRulesResponse]()},
	{Name: "UpdateNetworkRule", Door: RPC, Quota: QuotaKeyWrite, Resource: "network/{Name}",
		Request: reflect.TypeFor[UpdateNetworkRuleRequest](), Response: reflect.TypeFor[EmptyResponse](),
		Differences: "Takes effect with the next request, as do all other changes of what client keys may do. In " +
			"KMS they take up to five minutes."},
	{Name: "DeleteNetworkRule", Door: RPC, Quota: QuotaKeyWrite, Resource: "network/{Name}",
		Request: reflect.TypeFor[NameRequest](), Response: reflect.TypeFor[EmptyResponse](),
		Differences: "A rule that permission policies name can be deleted. It then admits nobody."},

	{Name: "CreatePolicy", Door: RPC, Quota: QuotaKeyWrite, Resource: "policy/{Name}",
		Request: reflect.TypeFor[CreatePolicyRequest](), Response: reflect.TypeFor[CreatePolicyResponse](),
		Differences: "CryptoServiceKeyUser permits GenerateRandom, and AsymmetricSign, AsymmetricVerify and " +
			"GetPublicKey with the keys in Resources. CryptoServiceSecretUser permits nothing. Network rules " +
			"must exist; keys need not. Without AccessControlRules, all addresses are admitted. At most 1,000 " +
			"permission policies."},
	{Name: "DescribePolicy", Door: RPC, Quota: QuotaKeyRead, Resource: "policy/{Name}",
		Request: reflect.TypeFor[NameRequest](), Response: reflect.TypeFor[DescribePolicyResponse]()},
	{Name: "ListPolicies", Door: RPC, Quota: QuotaKeyRead, Resource: "policy",
		Request: reflect.TypeFor[ListNamedRequest](), Response: reflect.TypeFor[ListPoliciesResponse]()},
	{Name: "UpdatePolicy", Door: RPC, Quota: QuotaKeyWrite, Resource: "policy/{Name}",
		Request: reflect.TypeFor[UpdatePolicyRequest](), Response: reflect.TypeFor[EmptyResponse](),
		Differences: "AccessControlRules without a network rule, `{}`, admits all addresses."},
	{Name: "DeletePolicy", Door: RPC, Quota: QuotaKeyWrite, Resource: "policy/{Name}",
		Request: reflect.TypeFor[NameRequest](), Response: reflect.TypeFor[EmptyResponse](),
		Differences: "A permission policy that access points name can be deleted. It then permits nothing."},

	{Name: "CreateApplicationAccessPoint", Door: RPC, Quota: QuotaKeyWrite, Resource: "applicationaccesspoint/{Name}",
		Request:  reflect.TypeFor[CreateApplicationAccessPointRequest](),
		Response: reflect.TypeFor[AccessPointResponse](),
		Differences: "The permission policies must exist. At most 1,000 access points. A key policy can deny an " +
			"access point an operation, because `acs:ram::<account>:*` includes access points. It cannot allow " +
			"an access point anything."},
	{Name: "DescribeApplicationAccessPoint", Door: RPC, Quota: QuotaKeyRead, Resource: "applicationaccesspoint/{Name}",
		Request: reflect.TypeFor[NameRequest](), Response: reflect.TypeFor[AccessPointResponse]()},
	{Name: "ListApplicationAccessPoints", Door: RPC, Quota: QuotaKeyRead, Resource: "applicationaccesspoint",
		Request: reflect.TypeFor[ListNamedRequest](), Response: reflect.TypeFor[ListApplicationAccessPointsResponse]()},
	{Name: "UpdateApplicationAccessPoint", Door: RPC, Quota: QuotaKeyWrite, Resource: "applicationaccesspoint/{Name}",
		Request: reflect.TypeFor[UpdateApplicationAccessPointRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "DeleteApplicationAccessPoint", Door: RPC, Quota: QuotaKeyWrite, Resource: "applicationaccesspoint/{Name}",
		Request: reflect.TypeFor[NameRequest](), Response: reflect.TypeFor[EmptyResponse]()},

	{Name: "CreateClientKey", Door: RPC, Quota: QuotaKeyWrite, Resource: "applicationaccesspoint/{AapName}",
		Request: reflect.TypeFor[CreateClientKeyRequest](), Response: reflect.TypeFor[CreateClientKeyResponse](),
		Differences: "The PKCS#12 file uses 10,000 iterations. At most 10,000 client keys."},
	{Name: "GetClientKey", Door: RPC, Quota: QuotaKeyRead, Resource: "applicationaccesspoint/{AapName}",
		Request: reflect.TypeFor[ClientKeyRequest](), Response: reflect.TypeFor[GetClientKeyResponse]()},
	{Name: "ListClientKeys", Door: RPC, Quota: QuotaKeyRead, Resource: "applicationaccesspoint/{AapName}",
		Request: reflect.TypeFor[ListClientKeysRequest](), Response: reflect.TypeFor[ListClientKeysResponse](),
		Differences: "Without AapName, the caller needs permission on `applicationaccesspoint/*`."},
	{Name: "DeleteClientKey", Door: RPC, Quota: QuotaKeyWrite, Resource: "applicationaccesspoint/{AapName}",
		Request: reflect.TypeFor[ClientKeyRequest](), Response: reflect.TypeFor[EmptyResponse]()},

	{Name: "DescribeRegions", Door: RPC, Quota: QuotaKeyRead,
		Request: reflect.TypeFor[NoRequest](), Response: reflect.TypeFor[DescribeRegionsResponse]()},
	{Name: "DescribeAccountKmsStatus", Door: RPC, Quota: QuotaActivation, Resource: "*",
		Request: reflect.TypeFor[NoRequest](), Response: reflect.TypeFor[DescribeAccountKmsStatusResponse](),
		Differences: "The status is always Enabled."},
	{Name: "OpenKmsService", Door: RPC, Quota: QuotaActivation, Resource: "*",
		Request: reflect.TypeFor[NoRequest](), Response: reflect.TypeFor[EmptyResponse](),
		Differences: "There is nothing to open: the operation always succeeds."},
	{Name: "GetKmsInstance", Door: RPC, Quota: QuotaInstanceRead, Resource: "keystore/{KmsInstanceId}",
		Request: reflect.TypeFor[GetKmsInstanceRequest](), Response: reflect.TypeFor[GetKmsInstanceResponse](),
		Differences: "Members about VPCs and the subscription term are empty. CaCertificateChainPem is the CA " +
			"certificate that clients must trust."},
	{Name: "ListKmsInstances", Door: RPC, Quota: QuotaInstanceRead, Resource: "keystore/*",
		Request: reflect.TypeFor[ListKmsInstancesRequest](), Response: reflect.TypeFor[ListKmsInstancesResponse]()},

	{Name: "CreateUser", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[CreateUserRequest](), Response: reflect.TypeFor[CreateUserResponse]()},
	{Name: "ListUsers", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[NoRequest](), Response: reflect.TypeFor[ListUsersResponse]()},
	{Name: "DeleteUser", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[DeleteUserRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "ListQuotas", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[NoRequest](), Response: reflect.TypeFor[ListQuotasResponse]()},
	{Name: "SetUserQuota", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[SetUserQuotaRequest](), Response: reflect.TypeFor[EmptyResponse]()},

	{Name: "CreateAccessKey", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[CreateAccessKeyRequest](), Response: reflect.TypeFor[CreateAccessKeyResponse]()},
	{Name: "ListAccessKeys", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[ListAccessKeysRequest](), Response: reflect.TypeFor[ListAccessKeysResponse]()},
	{Name: "UpdateAccessKey", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[UpdateAccessKeyRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "DeleteAccessKey", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[DeleteAccessKeyRequest](), Response: reflect.TypeFor[EmptyResponse]()},

	{Name: "CreateRamPolicy", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[CreateRamPolicyRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "GetRamPolicy", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[RamPolicyRequest](), Response: reflect.TypeFor[GetRamPolicyResponse]()},
	{Name: "ListRamPolicies", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[NoRequest](), Response: reflect.TypeFor[ListRamPoliciesResponse]()},
	{Name: "UpdateRamPolicy", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[UpdateRamPolicyRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "DeleteRamPolicy", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[RamPolicyRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "AttachPolicyToUser", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[PolicyAttachmentRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "DetachPolicyFromUser", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[PolicyAttachmentRequest](), Response: reflect.TypeFor[EmptyResponse]()},
	{Name: "SimulatePolicy", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[SimulatePolicyRequest](), Response: reflect.TypeFor[SimulatePolicyResponse]()},

	{Name: "DescribeToken", Door: Admin, Quota: QuotaAdministration, Timeout: inspectTimeout,
		Request: reflect.TypeFor[NoRequest](), Response: reflect.TypeFor[DescribeTokenResponse]()},
	{Name: "ListTokenObjects", Door: Admin, Quota: QuotaAdministration, Timeout: inspectTimeout,
		Request: reflect.TypeFor[NoRequest](), Response: reflect.TypeFor[ListTokenObjectsResponse]()},
	{Name: "ListKeyVersionUses", Door: Admin, Quota: QuotaAdministration, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[ListKeyVersionUsesRequest](), Response: reflect.TypeFor[ListKeyVersionUsesResponse]()},
	{Name: "TestKeyVersion", Door: Admin, Quota: QuotaAdministration, Resource: "key/{KeyId}",
		Request: reflect.TypeFor[TestKeyVersionRequest](), Response: reflect.TypeFor[TestKeyVersionResponse]()},
	{Name: "DestroyTokenObject", Door: Admin, Quota: QuotaAdministration, Timeout: inspectTimeout,
		Request: reflect.TypeFor[DestroyTokenObjectRequest](), Response: reflect.TypeFor[EmptyResponse]()},

	{Name: "GetAuditHead", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[NoRequest](), Response: reflect.TypeFor[GetAuditHeadResponse]()},

	{Name: "DescribeClock", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[NoRequest](), Response: reflect.TypeFor[DescribeClockResponse]()},
	{Name: "ConfirmClock", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[NoRequest](), Response: reflect.TypeFor[EmptyResponse]()},

	{Name: "CreateNamedKey", Door: Admin, Quota: QuotaAdministration,
		Request: reflect.TypeFor[CreateNamedKeyRequest](), Response: reflect.TypeFor[CreateKeyResponse]()},
	{Name: "CreateAttestation", Door: Admin, Quota: QuotaAdministration, Timeout: inspectTimeout,
		Request: reflect.TypeFor[CreateAttestationRequest](), Response: reflect.TypeFor[CreateAttestationResponse]()},
	{Name: "CreateBackup", Door: Admin, Quota: QuotaAdministration, Request: reflect.TypeFor[CreateBackupRequest]()},
}

// Unsupported lists the operations of KMS (kms-20160120 v3.2.3 and v4.1.0) that the gateway does
// not support.
var Unsupported = []string{
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

// IsUnsupported reports whether name is an operation of KMS that the gateway does not support.
func IsUnsupported(name string) bool { return slices.Contains(Unsupported, name) }
