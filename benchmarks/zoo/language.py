"""Text models of the transformers library: encoders, decoders, both."""

from __future__ import annotations

from typing import Any

from zoo.entry import Architecture, pretrained, text

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT: dict[str, Any] = {**SIZES, "vocab_size": 100, "max_position_embeddings": 64}
GROUPED: dict[str, Any] = {**TEXT, "num_key_value_heads": 2}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 64}
BART: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 100, "max_position_embeddings": 64,
}  # fmt: skip
T5: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 100}
DISTIL: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 100}
ALBERT: dict[str, Any] = {**TEXT, "embedding_size": 16}
FUNNEL: dict[str, Any] = {
    "vocab_size": 100, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64,
    "num_decoder_layers": 1,
}  # fmt: skip
XLNET: dict[str, Any] = {"vocab_size": 100, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
MOBILEBERT: dict[str, Any] = {
    **TEXT, "embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2, "trigram_input": True,
}  # fmt: skip
CONVBERT: dict[str, Any] = {**TEXT, "embedding_size": 32, "conv_kernel_size": 5}


def _encoder(name: str, stem: str, options: dict[str, Any]) -> Architecture:
    classes = (f"{stem}ForSequenceClassification", f"{stem}Config")
    return pretrained(name, "encoder", classes, options, text())


def _decoder(name: str, stem: str, options: dict[str, Any]) -> Architecture:
    return pretrained(name, "decoder", (f"{stem}ForCausalLM", f"{stem}Config"), options, text(mask=False))


def _seq2seq(name: str, classes: tuple[str, str], options: dict[str, Any]) -> Architecture:
    return pretrained(name, "encoder-decoder", classes, options, text(mask=False, decoder=6))


ENCODERS = [
    _encoder("bert", "Bert", TEXT),
    _encoder("roberta", "Roberta", TEXT),
    _encoder("albert", "Albert", ALBERT),
    _encoder("electra", "Electra", {**TEXT, "embedding_size": 16}),
    _encoder("deberta-v2", "DebertaV2", TEXT),
    _encoder("deberta", "Deberta", {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    _encoder("distilbert", "DistilBert", DISTIL),
    _encoder("mpnet", "MPNet", TEXT),
    _encoder("modernbert", "ModernBert", {**SPECIAL, **TEXT}),
    _encoder("convbert", "ConvBert", CONVBERT),
    _encoder("squeezebert", "SqueezeBert", {**TEXT, "embedding_size": 32}),
    _encoder("mobilebert", "MobileBert", MOBILEBERT),
    _encoder("fnet", "FNet", TEXT),
    _encoder("roformer", "RoFormer", {**TEXT, "embedding_size": 32}),
    _encoder("xlnet", "XLNet", XLNET),
    _encoder("funnel", "Funnel", FUNNEL),
]

DECODERS = [
    pretrained("gpt2", "decoder", ("GPT2LMHeadModel", "GPT2Config"), GPT2, text(mask=False)),
    _decoder("gpt-neox", "GPTNeoX", TEXT),
    _decoder("gpt-j", "GPTJ", {**GPT2, "rotary_dim": 4}),
    _decoder("codegen", "CodeGen", {**GPT2, "rotary_dim": 4}),
    _decoder("gpt-bigcode-mqa", "GPTBigCode", GPT2),
    _decoder("llama-gqa", "Llama", GROUPED),
    _decoder("mistral", "Mistral", GROUPED),
    _decoder("qwen2", "Qwen2", GROUPED),
    _decoder("qwen3", "Qwen3", {**GROUPED, "head_dim": 8}),
    _decoder("gemma", "Gemma", {**GROUPED, "head_dim": 8, "num_key_value_heads": 1}),
    _decoder("gemma2", "Gemma2", {**GROUPED, "head_dim": 8}),
    _decoder("falcon-mqa", "Falcon", {**TEXT, "multi_query": True, "new_decoder_architecture": False}),
    _decoder("opt", "OPT", {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    _decoder("bloom", "Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100}),
    _decoder("phi", "Phi", TEXT),
    _decoder("phi3", "Phi3", {**GROUPED, "pad_token_id": 0}),
    _decoder("stablelm", "StableLm", GROUPED),
    _decoder("starcoder2", "Starcoder2", GROUPED),
    _decoder("olmo2", "Olmo2", GROUPED),
    _decoder("mpt", "Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 100, "max_seq_len": 64}),
]

SEQ2SEQ = [
    _seq2seq("t5", ("T5ForConditionalGeneration", "T5Config"), T5),
    _seq2seq("mt5-gated", ("MT5ForConditionalGeneration", "MT5Config"), T5),
    _seq2seq("bart", ("BartForConditionalGeneration", "BartConfig"), BART),
    _seq2seq("mbart", ("MBartForConditionalGeneration", "MBartConfig"), BART),
    _seq2seq("marian", ("MarianMTModel", "MarianConfig"), {**BART, "pad_token_id": 99, "decoder_start_token_id": 99}),
    _seq2seq("m2m100", ("M2M100ForConditionalGeneration", "M2M100Config"), BART),
    _seq2seq("pegasus", ("PegasusForConditionalGeneration", "PegasusConfig"), BART),
    _seq2seq("blenderbot", ("BlenderbotForConditionalGeneration", "BlenderbotConfig"), BART),
]
