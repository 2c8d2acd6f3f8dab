"""The methods: one file a step, pure functions on tensors. No files, no Ray, no mmdet, no globals."""
