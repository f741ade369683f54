"""Audio models and models of text and images of the transformers library."""

from __future__ import annotations

from typing import Any

from zoo.entry import both, image, noise, pretrained, text

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT: dict[str, Any] = {**SIZES, "vocab_size": 100, "max_position_embeddings": 64}
SPEECH: dict[str, Any] = {
    "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, **SIZES, "vocab_size": 32, "classifier_proj_size": 16,
}  # fmt: skip
WHISPER: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 100, "num_mel_bins": 16, "max_source_positions": 20,
    "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "classifier_proj_size": 16, "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
AST: dict[str, Any] = {**SIZES, "num_mel_bins": 16, "max_length": 32, "patch_size": 8}
CLIP: dict[str, Any] = {
    "text_config": {**TEXT, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0},
    "vision_config": {**SIZES, "image_size": 32, "patch_size": 8}, "projection_dim": 16,
}  # fmt: skip
SIGLIP: dict[str, Any] = {
    "text_config": {**TEXT, "projection_size": 32, "pad_token_id": 0},
    "vision_config": {**SIZES, "image_size": 32, "patch_size": 8},
}  # fmt: skip
VILT: dict[str, Any] = {**TEXT, "image_size": 32, "patch_size": 8, "num_labels": 5}
BLIP: dict[str, Any] = {
    "text_config": {**TEXT, "encoder_hidden_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    "vision_config": {**SIZES, "image_size": 32, "patch_size": 8}, "image_text_hidden_size": 16, "projection_dim": 16,
}  # fmt: skip

WAVE = noise("input_values", 800)
PAIR = both(text(mask=False), image())
SCORES = ("logits_per_image", "logits_per_text")

AUDIO = [
    pretrained("wav2vec2", "audio", ("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config"), SPEECH, WAVE),
    pretrained("wav2vec2-ctc", "audio", ("Wav2Vec2ForCTC", "Wav2Vec2Config"), SPEECH, WAVE),
    pretrained("hubert", "audio", ("HubertForSequenceClassification", "HubertConfig"), SPEECH, WAVE),
    pretrained("wavlm", "audio", ("WavLMForSequenceClassification", "WavLMConfig"), SPEECH, WAVE),
    pretrained(
        "wav2vec2-conformer", "audio", ("Wav2Vec2ConformerForSequenceClassification", "Wav2Vec2ConformerConfig"),
        SPEECH, WAVE,
    ),
    pretrained("sew", "audio", ("SEWForSequenceClassification", "SEWConfig"), {**SPEECH, "squeeze_factor": 2}, WAVE),
    pretrained(
        "whisper-classifier", "audio", ("WhisperForAudioClassification", "WhisperConfig"), WHISPER,
        noise("input_features", 16, 40),
    ),
    pretrained(
        "whisper", "audio", ("WhisperForConditionalGeneration", "WhisperConfig"), WHISPER,
        both(noise("input_features", 16, 40), lambda: {"decoder_input_ids": text(6)()["input_ids"]}),
    ),
    pretrained("ast", "audio", ("ASTForAudioClassification", "ASTConfig"), AST, noise("input_values", 32, 16)),
]  # fmt: skip

MULTI_MODAL = [
    pretrained("clip", "multi-modal", ("CLIPModel", "CLIPConfig"), CLIP, PAIR, SCORES, None),
    pretrained("siglip", "multi-modal", ("SiglipModel", "SiglipConfig"), SIGLIP, PAIR, SCORES, None),
    pretrained("blip", "multi-modal", ("BlipModel", "BlipConfig"), BLIP, PAIR, SCORES, None),
    pretrained(
        "vilt", "multi-modal", ("ViltForQuestionAnswering", "ViltConfig"), VILT, both(text(), image()), dynamic=None
    ),
]
