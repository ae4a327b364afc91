package ec2

import (
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/step"
)

// The keys of the tags of a resource.
const (
	tagApp        = "morgana:app"
	tagTarget     = "morgana:target"
	tagLife       = "morgana:life"
	tagGeneration = "morgana:generation"
	// tagDigest is the digest of the image in a snapshot or AMI.
	tagDigest = "morgana:digest"
	// tagUse and a rollout's folder name make the key of [useTag].
	tagUse = "morgana:use:"
	// tagEnded is that of an import task which Destroy has ended, and of an instance which
	// shut itself down before Destroy.
	tagEnded = "morgana:ended"
	// tagReady says that an instance was ready.
	tagReady = "morgana:ready"
	// tagElasticIP and tagTargetGroup say that an instance got that Elastic IP and a place
	// in that target group.
	tagElasticIP   = "morgana:elastic-ip"
	tagTargetGroup = "morgana:target-group"
	// tagBlocks has the list of a snapshot's blocks, for a later snapshot's upload: size,
	// SHA-256 and URI of the artifact.
	tagBlocks = "morgana:blocks"
	// tagParent has the id of the snapshot that a snapshot was begun from.
	tagParent = "morgana:parent"
	// tagHelper is that of a helper of backing volume, and of its own volume and interface. It
	// names the keys that the helper was made with.
	tagHelper = "morgana:helper"
	// tagMaking is that of a security group of backing volume. See [making].
	tagMaking = "morgana:making"
	// tagWritten says that a volume of backing volume has the whole image.
	tagWritten = "morgana:written"
)

// tagsOf returns the tags of a resource of a rollout. The Name is what EC2's console shows.
func tagsOf(t step.Tags) ([]types.Tag, error) {
	folder, err := t.Folder()
	if err != nil {
		return nil, err
	}
	return []types.Tag{
		tag("Name", folder), tag(tagApp, t.App), tag(tagTarget, t.Target), tag(tagLife, t.Life),
		tag(tagGeneration, strconv.Itoa(t.Generation)),
	}, nil
}

// useTag is the tag by which a rollout uses a snapshot and an AMI. The rollout that made
// them uses them too. The value of an AMI's may be a [making].
func useTag(t step.Tags) (types.Tag, error) {
	folder, err := t.Folder()
	return tag(tagUse+folder, ""), err
}

func tag(key, value string) types.Tag {
	return types.Tag{Key: aws.String(key), Value: aws.String(value)}
}

// value returns the value of a tag, "" if there is none.
func value(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

// owner returns the tags of the rollout that made a resource, false if no rollout did.
func owner(tags []types.Tag) (step.Tags, bool) {
	generation, err := strconv.Atoi(value(tags, tagGeneration))
	t := step.Tags{App: value(tags, tagApp), Target: value(tags, tagTarget), Life: value(tags, tagLife), Generation: generation}
	_, named := t.Folder()
	return t, err == nil && named == nil
}

// users returns the rollouts that use a snapshot or an AMI.
func users(tags []types.Tag) []step.Tags {
	var all []step.Tags
	for _, t := range tags {
		if folder, ok := strings.CutPrefix(aws.ToString(t.Key), tagUse); ok {
			if of, ok := step.ParseFolder(folder); ok {
				all = append(all, of)
			}
		}
	}
	return all
}

// tagged returns the tags of what a call makes.
func tagged(tags []types.Tag, kinds ...types.ResourceType) (all []types.TagSpecification) {
	for _, kind := range kinds {
		all = append(all, types.TagSpecification{ResourceType: kind, Tags: tags})
	}
	return all
}

// matching returns the filters that find the resources of tags, as in [step.Tags.Match].
// An empty app and target find all apps'.
func matching(t step.Tags) []types.Filter {
	if t.App == "" && t.Target == "" {
		return []types.Filter{filter("tag-key", tagApp)}
	}
	all := []types.Filter{filter("tag:"+tagApp, t.App), filter("tag:"+tagTarget, t.Target)}
	if t.Life != "" {
		all = append(all, filter("tag:"+tagLife, t.Life))
	}
	return all
}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: aws.String(name), Values: values}
}
