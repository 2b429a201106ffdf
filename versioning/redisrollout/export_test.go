package redisrollout

var Parse = parse

const MaxReplicas = maxReplicas
