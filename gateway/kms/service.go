package kms

type CreateBackupRequest struct {
	Recipients []string `kms:"required"`
}

type RegionItem struct{ RegionId string }

type DescribeRegionsResponse struct {
	Result
	Regions struct{ Region []RegionItem }
}

type DescribeAccountKmsStatusResponse struct {
	Result
	AccountStatus string
}

type GetKmsInstanceRequest struct {
	KmsInstanceId string `kms:"required"`
}

type BindVpc struct{ RegionId, VSwitchId, VpcId, VpcOwnerId string }

// A KmsInstance has the members that the API has; what an appliance has not, no
// VPC and no end, is empty.
type KmsInstance struct {
	BindVpcs              struct{ BindVpc []BindVpc }
	CaCertificateChainPem string
	CreateTime            string
	EndDate               string
	InstanceId            string
	InstanceName          string
	KeyNum                int64
	SecretNum             string
	Spec                  int64
	StartDate             string
	Status                string
	VpcId                 string
	VpcNum                int64
	VswitchIds            string
	ZoneIds               string
}

type GetKmsInstanceResponse struct {
	Result
	KmsInstance KmsInstance
}

type ListKmsInstancesRequest struct {
	PageNumber *int `kms:"min=1"`
	PageSize   *int `kms:"min=1,max=100"`
}

type KmsInstanceItem struct {
	KmsInstanceArn string
	KmsInstanceId  string
}

type ListKmsInstancesResponse struct {
	Result
	KmsInstances struct{ KmsInstance []KmsInstanceItem }
	PageInfo
}

type GetAuditHeadResponse struct {
	Result
	Head string
}
