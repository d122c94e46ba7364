package events

import "encoding/json"

// What a forger can know: the subjects on which an answer to the question is
// awaited, none if it is no question.
func AnswerSubjects(m Message) []string {
	q, ok := readQuestion(&m)
	if !ok {
		return nil
	}
	return []string{answerSubject(q.Stream, q.Asker, q.Nonce)}
}

// ForgeAnswer returns the answer of the node to the question, sealed by the
// keys, or with another seal.
func ForgeAnswer(keys *ClusterKeys, question Message, node, seal string) Message {
	q, _ := readQuestion(&question)
	b, err := json.Marshal(meshAnswer{V: Version, Stream: q.Stream, Seq: q.Seq, Nonce: q.Nonce, Node: node, Incarnation: NewIncarnation()})
	if err != nil {
		panic(err)
	}
	m := Message{Subject: answerSubject(q.Stream, q.Asker, q.Nonce), Payload: b, Seal: seal}
	if seal == "" {
		m.Seal = keys.seal(&m, nil)
	}
	return m
}

// ReplySubjects is AnswerSubjects for queries.
func ReplySubjects(m Message) []string {
	q, _, ok := readQuery(&m)
	if !ok {
		return nil
	}
	return []string{replySubject(q.Topic, q.Asker, q.Nonce)}
}

// ForgeReply is ForgeAnswer for queries.
func ForgeReply(keys *ClusterKeys, query Message, from Incarnation, seal string) Message {
	q, _, _ := readQuery(&query)
	b, err := json.Marshal(meshReply{V: Version, Topic: q.Topic, Nonce: q.Nonce, Incarnation: from})
	if err != nil {
		panic(err)
	}
	m := Message{Subject: replySubject(q.Topic, q.Asker, q.Nonce), Payload: append(b, "\nforged"...), Seal: seal}
	if seal == "" {
		m.Seal = keys.seal(&m, nil)
	}
	return m
}
