"""A made-up Portuguese shop: products with a name, a description (not all have one) and one of four categories.

The columns and the quirks are those of a real shop's table: descriptions are missing here and there, and some sellers
leave accents out ("aneis" for "anéis"), which is what the two versions of the model treat differently.
"""

from __future__ import annotations

import random

import pandas as pd


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(";")]


STOP_WORDS = frozenset(
    _items(
        "a; à; ao; aos; as; às; até; com; como; da; das; de; dela; dele; do; dos; e; é; ela; elas; ele; eles; em; "
        "entre; era; essa; esse; esta; este; eu; foi; há; isso; já; mais; mas; me; mesmo; meu; minha; muito; na; "
        "nas; não; nem; no; nos; nós; num; numa; o; os; ou; para; pela; pelo; por; qual; quando; que; quem; se; "
        "sem; ser; seu; sua; são; só; também; te; tem; um; uma; você"
    )
)

LINES = {
    "brinquedo": _items(
        "Boneca de pano; Boneca que fala; Soldados de plástico; Soldadinhos de chumbo; Carrinho de fricção; Carrinho "
        "de madeira; Quebra-cabeça de animais; Massinha de modelar; Blocos de montar; Pião de madeira; Bambolê "
        "colorido; Urso de pelúcia; Robô que anda; Trem elétrico; Fantoche de dedo; Jogo da memória infantil; Bola de "
        "borracha; Casinha de boneca; Figura de ação articulada; Kit de pulseiras e aneis para montar; Maleta de "
        "contas para aneis e colares; Bijuteria infantil com aneis de plástico; Torre de aneis coloridos; Aneis de "
        "encaixar"
    ),
    "game": _items(
        "Minecraft; Minecraft edição para consoles; Dark Souls; Dark Souls remasterizado; Jogo de corrida arcade; "
        "Jogo de futebol; Jogo de luta; Jogo de tiro em primeira pessoa; Aventura em mundo aberto; Controle sem fio; "
        "Console portátil; Cartão pré-pago de jogos; Fone com microfone para jogar; Jogo de plataforma; RPG de turnos; "
        "Simulador de voo; Coletânea de clássicos do fliperama; Expansão com novas missões"
    ),
    "livro": _items(
        "O Senhor dos Anéis; Box O Senhor dos Anéis; Dom Casmurro; Vidas Secas; Contos escolhidos; Poesia "
        "reunida; Romance histórico; Biografia de um navegador; Manual de jardinagem; Dicionário de sinônimos; Atlas "
        "ilustrado; Antologia de crônicas; História do Brasil; Livro de receitas; Fábulas recontadas; Ensaios sobre "
        "música; Curso de desenho; Guia de viagem"
    ),
    "maquiagem": _items(
        "Batom vermelho; Batom matte; Base líquida; Pó compacto; Rímel à prova de água; Paleta de sombras; Delineador "
        "em caneta; Kit de esponjas para maquiagem; Pincel para blush; Corretivo facial; Iluminador em bastão; Esmalte "
        "cremoso; Gloss labial; Lápis de olho; Demaquilante suave; Primer facial; Máscara de cílios; Removedor"
    ),
}

PHRASES = {
    "brinquedo": _items(
        "indicado para crianças a partir de três anos; estimula a imaginação e a coordenação; feito de plástico "
        "resistente e atóxico; as crianças vão brincar durante horas; não contém peças pequenas; acompanha caixa "
        "colorida; diversão garantida para meninos e meninas; brinquedo com selo de segurança"
    ),
    "game": _items(
        "mídia física lacrada; compatível com os principais consoles; modo para vários jogadores online; gráficos em "
        "alta definição; desafie seus amigos em partidas rápidas; explore cavernas e derrote chefes; requer conexão "
        "com a internet; legendas em português; o jogo inclui conteúdo adicional"
    ),
    "livro": _items(
        "edição de bolso com capa mole; capa dura e fita marcadora; o autor narra uma longa viagem; número de páginas "
        "indicado na ficha; editora independente; tradução revista; a história de uma família em vários capítulos; "
        "leitura obrigatória em muitas escolas; papel de boa gramatura; idioma português; acabamento em brochura"
    ),
    "maquiagem": _items(
        "alta cobertura e longa duração; cor intensa nos lábios; testado por dermatologistas; para todos os tipos de "
        "pele; textura leve que não mancha; realça o olhar; fragrância delicada; contém vitamina e protetor solar; "
        "acabamento aveludado; produto vegano para o rosto"
    ),
}

COLOURS = _items("azul; verde; rosa; amarelo; branco; preto; lilás; dourado")


def products(per_category: int = 180, seed: int = 5) -> pd.DataFrame:
    """A table with the columns nome, descricao (None where the seller wrote none) and categoria."""
    choose = random.Random(seed)
    rows = []
    for category, lines in LINES.items():
        for number in range(per_category):
            name = f"{lines[number % len(lines)]} {choose.choice(COLOURS)} {choose.randrange(100, 999)}"
            phrases = choose.sample(PHRASES[category], 3)
            blank = choose.random() < 0.2
            rows.append((name, None if blank else " " + ". ".join(phrases).capitalize() + ".", category))
    choose.shuffle(rows)
    return pd.DataFrame(rows, columns=["nome", "descricao", "categoria"])
